"""Tables, HTML pages and benchmark reports, shared by training, export, demo and benchmarks."""
