"""Many holders of private data train one model: jobs, rounds, updates, and the engines that carry them."""
