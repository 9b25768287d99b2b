import bpy

options = bpy.context.scene.mgcface

options.texture_size = "1024"
options.normal_map = False
options.all_faces = False
options.shape_keys = False
options.eyes = True
options.camera = True
options.lights = True
options.placement = "ORIGIN"
options.scale = 1.0
