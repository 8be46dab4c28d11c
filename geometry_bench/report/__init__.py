"""Outcomes and tables made from judgements: pure functions, no measuring, no writing of files."""
