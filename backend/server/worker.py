"""The process that computes: batches in over stdin, results out over stdout, one at a time.

It ends with the server, whatever it is doing: a thread that only reads stdin ends the process when the
server's side of the pipe closes. The server ends it, too, when it does not stop within a moment: nothing
of value lives here but warm models.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from backend.errors import Cancelled, MgcFaceError
from backend.protocol.wire import MAX_MESSAGE_BYTES, Message, decode, encode
from backend.server.pipe import read_frames, write_frames

log = logging.getLogger(__name__)

# Results leave one at a time; the pipe takes twice what a client's message may hold.
PIPE_LIMIT = 2 * MAX_MESSAGE_BYTES


class Worker:
    """Reads batches, computes them, writes what comes out."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.batches: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.stop_batch = ""

    def listen(self) -> None:
        """A thread's work: batches into the queue, a request to stop heard at once."""
        while (frames := read_frames(self.incoming)) is not None:
            message = decode(frames, PIPE_LIMIT)
            if message.type == "stop":
                self.stop_batch = message.id
            else:
                self.batches.put(message)
        os._exit(0)  # the server has gone; there is nobody to tell and nothing to keep

    def say(self, kind: str, id: str = "", body: dict[str, Any] | None = None, arrays: dict | None = None) -> None:
        write_frames(self.outgoing, encode(Message(kind, id, body or {}, arrays or {}), PIPE_LIMIT))

    def work(self, device: str) -> None:
        """Get warm, say so, and compute until the process ends."""
        try:
            from backend.server.engine import Engine
            from backend.server.warm_up import warm_up

            engine = Engine(device)
            warm_up(engine)
        except (MgcFaceError, ImportError) as error:
            self.say("unable", body={"message": str(error).splitlines()[0]})
            return
        self.say("ready", body={"device": engine.device_name})
        while True:
            self.compute(engine, self.batches.get())

    def compute(self, engine: Any, batch: Message) -> None:
        from backend.server.item import Item

        items = []
        for photo in batch.body["photos"]:
            source = photo["path"] if "path" in photo else batch.arrays[photo["array"]].data
            items.append(Item(photo["client"], photo["job"], photo["index"], photo["name"], source))
        try:
            engine.run(items, batch.body["options"], BatchReport(self, batch.id, items))
        except Cancelled:
            pass
        self.say("batch_done", batch.id)


class BatchReport:
    """Turns what the engine says into messages; see :class:`backend.server.engine.Report`."""

    def __init__(self, worker: Worker, batch: str, items: list[Any]) -> None:
        self.worker, self.batch, self.items = worker, batch, items

    def progress(self, item: Any, stage: str, fraction: float) -> None:
        self._say("progress", item, {"photo": item.index, "stage": stage, "fraction": fraction})

    def face(self, item: Any, body: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._say("face", item, body, arrays)

    def photo_failed(self, item: Any, code: str, message: str) -> None:
        self._say("photo_failed", item, {"photo": item.index, "code": code, "message": message})

    def photo_done(self, item: Any, faces: int, timings_ms: dict[str, float]) -> None:
        self._say("photo_done", item, {"photo": item.index, "faces": faces, "timings_ms": timings_ms})

    def refused(self, code: str, message: str) -> None:
        for item in self._one_of_each_job(self.items):
            self._say("refused", item, {"code": code, "message": message})

    def note(self, text: str) -> None:
        for item in self._one_of_each_job(item for item in self.items if not item.ended):
            self._say("note", item, {"text": text})

    def stopped(self) -> bool:
        return self.worker.stop_batch == self.batch

    def _say(self, kind: str, item: Any, body: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
        self.worker.say(kind, item.job, {**body, "client": item.client}, arrays)

    @staticmethod
    def _one_of_each_job(items: Iterable[Any]) -> Iterable[Any]:
        return {(item.client, item.job): item for item in items}.values()


def main() -> None:
    parser = argparse.ArgumentParser(description="Started by `mgcface serve`.")
    parser.add_argument("--device", default="auto")
    device = parser.parse_args().device
    # Ctrl-C in a terminal reaches every process of the group; the server decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # Libraries print to descriptor 1; results get a descriptor of their own and that one becomes stderr.
    outgoing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker(sys.stdin.buffer, outgoing)
    threading.Thread(target=worker.listen, name="listen", daemon=True).start()
    try:
        worker.work(device)
    except BrokenPipeError:
        pass
    finally:
        sys.stderr.flush()
    # Not by returning: the listening thread sits in a read that the interpreter would stumble over.
    os._exit(0)


if __name__ == "__main__":
    main()
