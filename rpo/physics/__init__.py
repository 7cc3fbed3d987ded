"""Articulated rigid-body dynamics, differentiable, batch-last and component-wise."""
