"""Job cache, process pool and output options that benchmarks share."""
