"""Workers on this machine: processes of their own, over socket pairs, so no port is opened. They end with their owner, however it ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress

from verify.deadline import Deadline, OutOfTimeError
from verify.errors import ResourceError
from verify.workers.parcels import Parcel
from verify.workers.wire import LostError, Wire

SILENCE = 60.0  # seconds after which a worker counts as lost: it says every second that it lives
_CODE = (
    "import json, sys\nsettings = json.loads(sys.argv[1])\nsys.path[:] = settings['path']\n"
    "from verify.workers.worker import serve\nserve(settings['socket'], settings['threads'], settings['memory'])\n"
)


class LocalProcess:
    """A process of this machine. threads: of torch; memory: bytes that it is kept to, None for no limit of ours."""

    def __init__(self, threads: int, memory: int | None) -> None:
        ours, theirs = socket.socketpair()
        settings = {
            "path": [os.path.abspath(entry) if entry else os.getcwd() for entry in sys.path],
            "socket": theirs.fileno(),
            "threads": threads,
            "memory": memory,
        }
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-c", _CODE, json.dumps(settings)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is for the owner
                )
            except OSError as error:
                ours.close()
                raise ResourceError(f"--workers: a process cannot be started ({error.strerror})") from error
        self._wire = Wire(ours, SILENCE)

    def meet(self, deadline: Deadline) -> None:
        """It takes what it is asked as soon as it can."""

    def ask(self, parcel: Parcel, deadline: Deadline) -> list[bytearray]:
        try:
            self._wire.send(parcel)
            return self._wire.receive()
        except LostError:
            if deadline.called_off.is_set():
                raise OutOfTimeError from None
            raise

    def recall(self) -> None:
        self._wire.recall()

    def end(self) -> None:
        self._wire.close()
        with suppress(OSError):
            self.process.kill()
        self.process.wait()
