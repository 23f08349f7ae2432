"""What docs/results.md says in words: of each claim, what is asked, how, and what was tried."""

from dataclasses import dataclass

PAGE = """# What the paper claims, at a size anyone can rerun

Small models, trained from random weights on own data, one core each: not the paper's figures, but whether its
claims show. Made by `python benchmarks/claims.py --report` from the JSON files in `docs/results/`; the tables
grow as runs finish.

**Intervals** are 95 %: with three seeds or more, Student's over the seeds, of errors on their logarithm; with
fewer, or fewer that answered at all, by bootstrap over the test images of the run (of two: the outer ends).
**parsed** is the share of answers that parse, without the grammar; errors are means over the answers that name an
object. **minutes** are the processor's, training and scoring, on average. **paper** is an empty column: the paper's
figures are of a 7B model and other data, and none is quoted here, since no copy of its tables was at hand to quote
from. The same at full size, with the released data and weights, is `--size paper --data DIR --base WEIGHTS`; its runs
get tables of their own.

**5. What looking again adds** stands below each table whose runs were looked at again (`--refine`: the first 40
images of each split, words untouched). What other words and counts add is told in [refine.md](refine.md).
"""


@dataclass(frozen=True)
class Words:
    """title, question, setting: of the claim. tried: how the settings were found, and what did not help."""

    title: str
    question: str
    setting: str
    tried: str = ""


WORDS = {
    "float_head": Words(
        "1. The float head against numbers as text",
        """One red disc on a square. Training shows discs in some cells of a checkerboard alone, 5 x 5 (sparse) or 11 x
11 (dense); the test shows them anywhere. How far off is the place that is written (L2, in image sides), in
cells seen in training and in the holes between them?""",
        """10 000 images of 56 x 56 pixels, 700 steps of 32 (`configs/claims.py:task=twod`). 1 000 test images, the
curves' points 250 of them.""",
        """Length and learning rate are those of `make demo`. Seeds of numbers as text differ by factors: on
dense cells the first has learned to read places by step 500, the third is still on its way at 700. Three seeds left
dense cells open (0.014 to 0.395 for text), so two more were run, of all. **On what scale the interval is taken** was
chosen after results were seen: the logarithm, since intervals without it reached below 0. Without it, sparse cells say
the same (text 0.122 to 0.232), dense ones do not (text 0.023 to 0.141, float heads up to 0.029). What holds either way
is that each seed of a float head is better than each of text. More steps were not tried. **Looked at again**, all are
alike: an engine finds one disc wherever an answer puts it, to the pixel it lies on (0.0012 of the side).""",
    ),
    "cogent": Words(
        "2. Compositional generalisation",
        """CLEVR's scenes of 3 to 10 solids. Training (CoGenT A) shows cubes in four colours and cylinders in the other
four; val_ID is alike, val_OOD (CoGenT B) swaps them. The control is trained on the same images with
shuffled labels, so it shows what is had without looking.""",
        """The first 500, 2 000 or 8 000 images (`configs/claims.py:task=clevr`). **What a model from scratch can
show** is how far data teach it to read attributes of solids at all, and whether it takes a colour for a
shape once both are bound. **What only a pretrained one can** is the paper's point: that a vision tower and
a language model which knew colours and shapes apart before carry this over to combinations never seen.""",
        """L2 stays above the aim of 1.0. By the held-out squared error of numbers, with the weight of the numbers'
loss at 1 instead of 0.1 it is 1.32 after 1 000 steps and 1.21 after 2 000; with patches of 8 pixels instead of 12
(weight 0.5) 1.30 after 1 000. A first lesson of scenes of one or two objects (batches of 16, learning rate 1e-3,
weight 0.5) has 0.33 after 1 000 steps and 0.14 after 1 750, so that places of few objects are learned in minutes;
whole scenes started from it have 1.14 after 1 000 steps, scenes of two to five 0.81 after 1 500. What is slow is thus
not to read a place, but to tell which of many objects comes next. Numbers as text say so, too: their places are
nearer, since each that is written can be read again, while a float head's stands as one and the same token, whatever
its value. With 500 images, which it knows by heart in the end (loss 0.0003), text also falls apart: of 200 answers 18
to 28 % do not parse, and a tenth hold numbers without measure, up to nine digits long, which no mean survives (17 and
80, beyond the plot). Half the decoder's layers, weight 0.3 and images stretched to a square leave time for 12 000
steps, which end at L2 1.31 and 41 % of colours; six layers instead of four are no further after 3 500 steps. In one
trial a first lesson of the same images' scenes of three or four objects (1 500 steps of 8, learning rate 1e-3, weight
0.5), then 5 000 steps of all (7e-4, weight 0.3), ends at a squared error of 1.15 with the true words before each
number, but never reads colours (12 %), and its own answers have L2 1.44. None of this was taken over; scenes that grow
in more lessons were not tried.""",
    ),
    "rotations": Words(
        "3. Rotation representations",
        """One toy airplane, turned anyhow (so3), or turned and moved over a ground (sixdof). How far off is the turn
(geodesic angle; two random turns are 126 degrees apart on average) when it is written as Gram-Schmidt's six
numbers, a quaternion, axis times angle, or Euler angles, fixed or intrinsic? val_OOD of so3 shows turns
within 30 degrees of none, which training leaves out; that of sixdof shows other paint on another ground.""",
        """20 000 images, float head (`configs/claims.py:task=so3` and `task=sixdof`).""",
        """With 64 x 64 pixels, patches of 8 and learning rate 1e-3 one trial of 6d on so3 (batch 32) had a
held-out squared error a number of 0.051 after 250 steps and 0.013 after 500; the length and batch in
`configs/claims.py` follow from that, and took 6d below 15 degrees at once. On sixdof, turns are learned
long after places, and all at once; a model that knows places and no turns has 0.22. Trials of 6d: images of 96 x 96 in
patches of 12 stay at 0.23 to their end at 1 600 steps of 16, and so does what starts from so3's run (0.25 after 800);
patches of 8 go below 0.22 by step 1 600, batches of 8 images had not at 2 250. Stretched to a square of 80 x 80, with
half the decoder's layers, there is time for 4 000 steps: 0.23 after 2 000, 0.17 after 2 400, 0.067 at the end. Twice
the batch and the learning rate had 0.24 after 1 200 steps, in twice the time of each. **Whether that moment comes in
time is a seed's luck**: of three of 6d two end at 37 and 26 degrees, the other, at 118, has not begun; so 6d does not
lead outside the intervals on sixdof, as it does on so3. **On the other ground nothing
is left**: training shows one grey ground, val_OOD a green one, and a model from scratch answers what it has never
seen with words without end, which do not parse.""",
    ),
    "shifts": Words(
        "4. Other paint and other shapes",
        """Scenes of 2 to 4 toys of five classes, upright, with any yaw; and scenes of one toy. val_OOD_texture paints
them otherwise, val_OOD_shape shows other models of the same classes, so that only the class (the part before `_`) can
be right.""",
        """8 000 images, rotations as 6d (`configs/claims.py:task=shapenet`; of one toy, with its `SINGLE` as well).""",
        """Of several toys **only places are learned**: shapes and turns stand where guessing has them (30 shapes
of five classes). At 96 pixels, a third of them the border that makes the image square, a toy is ten pixels wide.
Stretched to a square of 144 pixels, with half the decoder's layers, learning rate 1e-3 and weight 0.5 of the numbers,
2 500 steps of 8 learn no more. So **one toy a scene**, the same images, batches of 16: places are known after 600
steps, classes begin to be told apart at 1 400 (24 000 images), and where the time ends, after 2 500, are right beyond
guessing (22 % at most), in other paint and of other models as well. A trial of 3 000 steps (27 minutes) had 53 %, 49 %
and 47 %, and no turns either: what comes after that, one core does not see in 25 minutes.""",
    ),
    "real_weights": Words(
        "6. Real weights",
        """SmolLM2-135M-Instruct and DINOv2-S/14, neither of which ever saw the other, learn to write the code of
CLEVR scenes of one object by LoRA and a linear projector alone, all else frozen. Beside them the same model whose
frozen weights are random, and the same weights writing numbers as text.""",
        """1 000 images of 224 x 224 pixels, 300 steps of 2 (`configs/real_weights.py`).""",
    ),
}
