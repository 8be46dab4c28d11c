"""Write the table of claims into claims.md, between its two markers, from the registry: ``python docs/claims_table.py``."""

from pathlib import Path

from geometry_bench.claims.registry import CLAIMS

PAGE = Path(__file__).with_name("claims.md")
BEGIN = "<!-- claims: written by docs/claims_table.py -->\n"
END = "<!-- end of claims -->\n"


def with_table(text: str) -> str:
    """The text with the table of claims as they are declared now."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    rows = "".join(f"| `{claim.id}` | {claim.statement} |\n" for claim in CLAIMS.values())
    return f"{before}{BEGIN}| id | statement |\n|---|---|\n{rows}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
