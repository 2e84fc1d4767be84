"""How Uni-STG's STVG records are made from captioned clips (arXiv 2503.13983): a caption and a rough interval go in, a
tube comes out, in four stages::

    analyzer   which things does the caption name, the main subject first        a language model
    annotator  where is that subject, on two frames a second                     Grounding DINO
    refiner    the interval shrinks to where the subject is seen; 2 to 120 s     arithmetic
    filter     crowded frames go, and so do tubes whose box jumps in size        arithmetic

One box a frame is kept of up to three: see ``linking``. What a stage refuses is a ``Rejected`` with its reason.
"""
