"""The report as a static site: a pure function of judgements, that opens from disk and asks the network for nothing."""

from geometry_bench.report.site.build import build, pages
from geometry_bench.report.site.contents import Compared, Contents, contents_of

__all__ = ["Compared", "Contents", "build", "contents_of", "pages"]
