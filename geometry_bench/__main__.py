"""``python -m geometry_bench``: the command line, where its script is not on the path."""

from geometry_bench.cli.app import main

if __name__ == "__main__":
    main()
