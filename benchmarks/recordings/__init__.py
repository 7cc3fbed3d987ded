"""What the simulator computes, beside recordings of the reference simulators."""
