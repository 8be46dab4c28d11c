"""Source A, *Safety and Compassion Geometry Across Models*, held against every ``--model``.

Eight instruct models were given system prompts of four contemplative traditions, a secular one and two safety prompts, and
the axes from the generic assistant's states to theirs were compared at the last token of the final block.

The last claims are about several subjects together.

Each test is one claim, stated in ``geometry_bench/claims/safety_compassion``; ``geometry-bench show CLAIM`` prints one
with its criterion, null and published values.
"""

from geometry_bench.claims import safety_compassion
from geometry_bench.plugin import benchmarks_of

globals().update(benchmarks_of(safety_compassion.CLAIMS))
