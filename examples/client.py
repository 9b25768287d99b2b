"""A photo through a running backend: `mgcface serve` in one terminal, this in another.

    python examples/client.py examples/astronaut.jpg

Prints progress and writes the neutral head as an OBJ file and its texture as a PPM picture beside the photo.
docs/protocol.md explains what goes over the wire.
"""

import sys
from pathlib import Path

from backend.protocol.client import Client
from backend.protocol.connection import read_connection
from backend.protocol.messages import TERMINAL
from backend.protocol.wire import ProtocolError
from backend.server.start import default_connection_file


def write_head(face, model, stem: Path) -> None:
    with open(stem.with_suffix(".obj"), "w", encoding="ascii") as file:
        for x, y, z in face.arrays["neutral"]:
            file.write(f"v {x:.6f} {y:.6f} {z:.6f}\n")
        for quad in model.arrays["quads"] + 1:
            file.write("f " + " ".join(str(corner) for corner in quad if corner > 0) + "\n")
    texture = face.arrays["texture"]
    header = f"P6 {texture.shape[1]} {texture.shape[0]} 255\n".encode()
    stem.with_suffix(".ppm").write_bytes(header + texture.tobytes())


def main(photo: Path, connection_file: Path) -> int:
    model, faces = None, []
    with Client(read_connection(connection_file), "example") as client:
        client.send("model", {"name": "open-head"})
        job = client.reconstruct([photo], {"model": "open-head", "texture_size": 1024})
        while True:
            for message in client.poll(100):
                if message.type == "model":
                    model = message
                elif message.type == "progress":
                    sys.stdout.write(f"{message.body['fraction']:4.0%}  {message.body['text']}\n")
                elif message.type == "face":
                    faces.append(message)
                elif message.type in ("photo_failed", "failed"):
                    sys.stderr.write(message.body["message"] + "\n")
                if message.type in TERMINAL and message.id == job:
                    if model is not None:
                        for face in faces:
                            write_head(face, model, photo.with_name(f"{photo.stem}_head{face.body['face'] + 1}"))
                    return 0 if faces else 1


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else default_connection_file()))
    except ProtocolError as error:
        sys.exit(str(error))
