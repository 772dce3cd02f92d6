"""The runtime: executors that run compiled programs on one or many ranks, and the pipeline that calls them."""
