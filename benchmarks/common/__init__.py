"""Job cache, output options, scenes and memory measurements that benchmarks share."""
