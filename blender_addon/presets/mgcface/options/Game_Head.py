import bpy

options = bpy.context.scene.mgcface

options.texture_size = "2048"
options.normal_map = False
options.all_faces = False
options.shape_keys = True
options.eyes = True
options.camera = False
options.lights = False
options.placement = "ORIGIN"
options.scale = 1.0
