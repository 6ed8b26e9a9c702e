"""Number of clicks (NoC) to a good mask: systems, simulated annotators, jobs and their report."""
