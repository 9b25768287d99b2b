"""The default head: from samples of ICT-FaceKit to a head of our own."""
