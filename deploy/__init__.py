"""From a trained agent to a controller that needs neither PyTorch nor this project's training half.

On a robot, ``controller`` acts, and ``plan_runner`` says when plans are made. ``faults`` reads sensors and holds the
fault policy; ``safety`` adds what happens while faults last. ``bundle`` reads files, ``schema`` says what a manifest
must hold, and ``contract`` compares the graphs with it. ``backends`` runs graphs, ``realtime`` asks the system for
cores and priority. ``connection`` compares a robot's description with the bundle's, and ``plausibility`` compares its
records (``logs``) with training. ``timing`` measures, ``percentiles`` summarises.

Beside PyTorch, ``export`` writes a bundle of an ``original`` agent, and ``manifest`` describes it (``leapp`` does so
for other projects). ``graphs`` are the agent's modules; ``assemble`` and ``quantization`` make ONNX of them.
``parity`` and ``regret`` compare plans on ``cases``, and ``probe`` looks into a graph for them; the firmest plans are
kept as ``golden`` ones. ``validation`` plays a bundle beside its agent, ``simulation`` in real time. Import these by
their names: ``tdmpc.deploy.export``.
"""

from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import ControlFault
from tdmpc.deploy.safety import Safety

__all__ = ["BundleError", "ControlFault", "Controller", "Runtime", "Safety"]
