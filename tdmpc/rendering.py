"""What has to come before a renderer is loaded, which importing MuJoCo or dm_control does."""

import importlib
import os
import sys
from contextlib import suppress


def prepare_rendering() -> None:
    """Load what would not load behind a renderer, and choose a renderer that works without a screen."""
    _load_triton()
    _choose_headless_renderer()


def _load_triton() -> None:
    """Load the compiler that comes with a PyTorch for CUDA, as PyTorch will when it makes an optimiser.

    Mesa's renderers and Triton have an LLVM each, and whichever comes first serves both: Mesa renders with Triton's,
    but Triton 3.7 crashes on Mesa's (tensorflow/tensorflow#124205 is the same with TensorFlow's).
    """
    with suppress(ImportError):
        importlib.import_module("triton")


def _choose_headless_renderer() -> None:
    """Make MuJoCo render without a screen, unless there is one or the user has chosen.

    MuJoCo and dm_control pick their renderers when they are imported, so this comes before: left alone, they try the
    missing display. Where EGL does not work either, rendering is off and the rest works.
    """
    has_screen = not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not has_screen and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl"  # before MuJoCo is imported, if only to see whether EGL works
        if not _egl_works():
            os.environ["MUJOCO_GL"] = "off"


def _egl_works() -> bool:
    try:
        from mujoco import egl
    except (ImportError, AttributeError):  # AttributeError is how PyOpenGL says that libEGL is missing
        return False
    try:
        return egl.create_initialized_egl_device_display() != egl.EGL.EGL_NO_DISPLAY
    except egl.error.Error:
        return False
