"""AUTOMATIC1111's API, /sdapi/v1: what its clients and plug-ins send is drawn; what cannot be honoured is said in the
answer's ``info``, under ``warnings``. One's own jobs alone are shown and interrupted.
"""

from bimo.serve.a1111 import controlnet, drawing, extras, lists, progress

ROUTERS = (drawing.router, progress.router, progress.internal, lists.router, extras.router, controlnet.router)
