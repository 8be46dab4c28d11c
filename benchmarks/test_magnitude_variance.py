"""Source C, *Day 1: I thought I had found direction. I instead found magnitude*, held against every ``--model``.

Safe and harmful requests were read as raw text by Pythia 1.4B, and the size, spread and direction of their mean activations
compared layer by layer.

Each test is one claim, stated in ``geometry_bench/claims/magnitude_variance``; ``geometry-bench show CLAIM`` prints one
with its criterion, null and published values.
"""

from geometry_bench.claims import magnitude_variance
from geometry_bench.plugin import benchmarks_of

globals().update(benchmarks_of(magnitude_variance.CLAIMS))
