"""The publications themselves: statements of a source, checked against the values that it reports. No model is needed.

A contradicted statement is on record in the stored baselines, so it is an expected failure here, with the values in its
reason. Audits run where no subject is named.
"""

from geometry_bench.claims import audited
from geometry_bench.plugin import benchmarks_of

globals().update(benchmarks_of(audited.CLAIMS))
