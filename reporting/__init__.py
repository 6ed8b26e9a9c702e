"""Tables and HTML reports, shared by training, export and benchmarks."""
