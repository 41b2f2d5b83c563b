"""Rendering where there is no screen."""

import os
import sys


def choose_headless_renderer() -> None:
    """Make MuJoCo render without a screen, unless there is one or the user has chosen.

    dm_control picks its renderer when it is imported, so this comes before: left alone, it tries
    the missing display first. Where EGL does not work either, rendering is off and the rest works.
    """
    has_screen = not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not has_screen and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl" if _egl_works() else "off"


def _egl_works() -> bool:
    try:
        from mujoco import egl
    except (ImportError, AttributeError):  # AttributeError is how PyOpenGL says that libEGL is missing
        return False
    try:
        return egl.create_initialized_egl_device_display() != egl.EGL.EGL_NO_DISPLAY
    except egl.error.Error:
        return False
