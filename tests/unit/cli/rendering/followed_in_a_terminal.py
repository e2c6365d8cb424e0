"""`python followed_in_a_terminal.py`: shows a running job in the terminal it is started in, until Ctrl-C."""

import contextlib
import fcntl
import sys
import termios
import time

from tests import answers
from tunesmith.cli.rendering.live_view import view_for_this_terminal
from tunesmith.tuning.api.metrics import MetricPoint

fcntl.ioctl(sys.stdin, termios.TIOCSCTTY, 0)  # the kernel tells its size to who is in front of it
with contextlib.suppress(KeyboardInterrupt), view_for_this_terminal() as view:
    view.line("told before")
    view.point(MetricPoint(step=20, total_steps=96, train_loss=1.5, eta_seconds=460, valid_loss=1.1))
    view.job(answers.job(status="running", phase="training"))
    while True:
        time.sleep(0.05)  # a signal that comes just before `signal.pause()` would wait in it for the next
