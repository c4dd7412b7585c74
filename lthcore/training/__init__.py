"""Training of networks: training loops, training states, and the engines that take the steps."""
