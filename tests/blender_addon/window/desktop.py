"""What a desktop does to Blender's window, as a program of its own beside Blender:

    desktop.py close
    desktop.py drop FILE X Y

The second drags a file there and lets it go, by the protocol that X desktops share (XDND, version 5).
Exit code 0 when the window took it.
"""

import sys
import time
from pathlib import Path

from Xlib import X, display
from Xlib.protocol import event

# Seconds that the window may take for one answer: Blender draws in software meanwhile.
PATIENCE_S = 15.0
# Positions on the way: Blender asks what is below the pointer when it moves.
STEPS = 5
VERSION = 5


class Desktop:
    def __init__(self):
        self.display = display.Display()
        self.root = self.display.screen().root
        # Answers come to this one, which is never seen.
        self.window = self.root.create_window(0, 0, 1, 1, 0, X.CopyFromParent)

    def atom(self, name):
        return self.display.intern_atom(name)

    def tell(self, target, kind, *data):
        message = event.ClientMessage(
            window=target, client_type=self.atom(kind), data=(32, [*data, *[0] * (5 - len(data))])
        )
        target.send_event(message)
        self.display.flush()

    def blender(self):
        """The one window that takes drops."""
        windows = self.root.query_tree().children
        aware = self.atom("XdndAware")
        return next(window for window in windows if window.get_full_property(aware, X.AnyPropertyType))

    def close(self):
        self.tell(self.blender(), "WM_PROTOCOLS", self.atom("WM_DELETE_WINDOW"), X.CurrentTime)
        self.display.sync()

    def drop(self, path, x, y):
        target = self.blender()
        kind = self.atom("text/uri-list")
        self.window.set_selection_owner(self.atom("XdndSelection"), X.CurrentTime)
        self.tell(target, "XdndEnter", self.window.id, VERSION << 24, kind)
        for step in range(STEPS):
            place = (x - STEPS + 1 + step) << 16 | y
            self.tell(target, "XdndPosition", self.window.id, 0, place, X.CurrentTime, self.atom("XdndActionCopy"))
            status = self.answer("XdndStatus")
            time.sleep(0.2)
        if not status[1] & 1:
            raise SystemExit("the window does not want it")
        self.tell(target, "XdndDrop", self.window.id, 0, X.CurrentTime)
        self.hand_over(f"{path.as_uri()}\r\n".encode(), kind)
        self.answer("XdndFinished")

    def answer(self, kind):
        wanted = self.atom(kind)
        return self.wait_for(lambda found: found.type == X.ClientMessage and found.client_type == wanted).data[1]

    def hand_over(self, data, kind):
        asked = self.wait_for(lambda found: found.type == X.SelectionRequest)
        asked.requestor.change_property(asked.property, kind, 8, data)
        asked.requestor.send_event(
            event.SelectionNotify(
                time=asked.time,
                requestor=asked.requestor,
                selection=asked.selection,
                target=asked.target,
                property=asked.property,
            )
        )
        self.display.flush()

    def wait_for(self, wanted):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            while self.display.pending_events():
                found = self.display.next_event()
                if wanted(found):
                    return found
            time.sleep(0.01)
        raise SystemExit("the window does not answer")


if __name__ == "__main__":
    if sys.argv[1] == "close":
        Desktop().close()
    else:
        Desktop().drop(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
