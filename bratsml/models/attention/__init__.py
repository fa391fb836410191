"""Window attention for SwinUNETR: one mathematics, several ways of computing it.

Letters: B windows of all images, N tokens of a window, H heads, D channels of a head, T rows of the
table of relative-position biases, G windows of one image.

``windows``     where tokens and windows lie: what bias and shift mask are looked up from
``reference``   MONAI's computation, and the float64 one that the others are held against
``sdpa`` ``flex`` ``triton_op`` (with ``triton_kernels``)   the other backends
``backends``    their table, and which of them can run where
``select``      ``auto``: measure once, remember
``swin``        puts a backend into MONAI's network; says what really ran
"""
