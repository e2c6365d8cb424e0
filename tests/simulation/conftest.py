"""Fixtures of the control plane."""

from tests.control_plane import control_plane, limited, live_control_plane, plane

__all__ = ["control_plane", "limited", "live_control_plane", "plane"]
