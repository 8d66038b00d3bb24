"""A plug-in that registers the context module of `strip_pooling.py` as the framework `stripnet`.

cmdl train camvid --framework stripnet --plugin examples/plugins/strip_net.py --data-dir path/to/CamVid
cmdl predict outputs/camvid-cmdl-stripnet-resnet50c.gluon_in1k photos/ --out outputs/segmented \
        --plugin examples/plugins/strip_net.py
"""

from strip_pooling import StripPooling

from cmdl_hf import register_context_module

register_context_module("strip", StripPooling, title="StripNet")
