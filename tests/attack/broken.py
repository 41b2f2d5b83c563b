"""A module that cannot be imported."""

raise RuntimeError("the driver of the arm is not running")
