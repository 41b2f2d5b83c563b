"""From a trained agent to a controller that needs neither PyTorch nor this project's training half.

The run-time half, for a robot: ``Controller``, ``Runtime``. Everything that exports or compares imports PyTorch, and is
imported by its module's name: ``deploy.export``.
"""

from deploy.backends import Runtime
from deploy.bundle import BundleError
from deploy.controller import Controller
from deploy.faults import ControlFault

__all__ = ["BundleError", "ControlFault", "Controller", "Runtime"]
