"""Pipeline parallelism: every rank holds some of the layers, microbatches pass through them.

The table is the folder's reading list: order.py and schedule.py first, then the schedules in this
order; lower.py turns any of them into a program, figures.py says what it costs.
"""

from parallel_core.pipeline.dualpipe import dualpipe
from parallel_core.pipeline.dualpipe_v import dualpipe_v
from parallel_core.pipeline.gpipe import gpipe
from parallel_core.pipeline.interleaved import interleaved
from parallel_core.pipeline.naive import naive
from parallel_core.pipeline.one_f_one_b import one_f_one_b
from parallel_core.pipeline.pipedream import pipedream
from parallel_core.pipeline.schedule import Schedule
from parallel_core.pipeline.v_half import v_half
from parallel_core.pipeline.v_min import v_min
from parallel_core.pipeline.zb_auto import zb_auto
from parallel_core.pipeline.zb_h1 import zb_h1
from parallel_core.pipeline.zb_h2 import zb_h2
from parallel_core.pipeline.zb_v import zb_v

SCHEDULES: dict[str, Schedule] = {
    s.name: s
    for s in (
        Schedule(
            name="naive",
            title="layer-wise: one microbatch at a time, through all stages and back",
            source="the textbook's model parallelism",
            order=lambda job: naive(job.p, job.m),
        ),
        Schedule(
            name="gpipe",
            title="GPipe: all forwards, then all backwards",
            source="Huang et al. 2018, arXiv:1811.06965",
            order=lambda job: gpipe(job.p, job.m),
        ),
        Schedule(
            name="1f1b",
            title="1F1B (PipeDream-flush): GPipe's bubble, activations freed soonest",
            source="Narayanan et al. 2021, arXiv:2006.09503",
            order=lambda job: one_f_one_b(job.p, job.m),
        ),
        Schedule(
            name="pipedream",
            title="PipeDream: no flush; weights change at every backward, old ones are stashed",
            source="Narayanan et al. 2019, arXiv:1806.03377",
            order=lambda job: pipedream(job.p, job.m),
            asynchronous=True,
        ),
        Schedule(
            name="interleaved",
            title="interleaved 1F1B: several stages a rank, a smaller bubble, more messages",
            source="Narayanan et al. 2021, arXiv:2104.04473",
            order=lambda job: interleaved(job.p, job.m, job.v),
            virtual=(),
        ),
        Schedule(
            name="zb-h1",
            title="ZB-H1: the weight half of the backward fills the drain; 1F1B's memory",
            source="Qi et al. 2023, arXiv:2401.10241",
            order=lambda job: zb_h1(job.p, job.m),
        ),
        Schedule(
            name="zb-h2",
            title="ZB-H2: more forwards first, and no bubble inside; up to 2p-1 in flight",
            source="Qi et al. 2023, arXiv:2401.10241",
            order=lambda job: zb_h2(job.p, job.m),
        ),
        Schedule(
            name="zb-v",
            title="ZB-V: two stages a rank in a V; no bubble inside at 1F1B's memory",
            source="Qi et al. 2023, arXiv:2401.10241",
            order=lambda job: zb_v(job.p, job.m),
            virtual=(2,),
        ),
        Schedule(
            name="v-half",
            title="V-Half: half of 1F1B's activations, for some bubble",
            source="Qi et al. 2024, arXiv:2405.15362",
            order=lambda job: v_half(job.p, job.m),
            virtual=(2,),
        ),
        Schedule(
            name="v-min",
            title="V-Min: a third of 1F1B's activations",
            source="Qi et al. 2024, arXiv:2405.15362",
            order=lambda job: v_min(job.p, job.m),
            virtual=(2,),
        ),
        Schedule(
            name="dualpipe",
            title="DualPipe: microbatches from both ends, two copies of the weights",
            source="DeepSeek-AI 2024, arXiv:2412.19437",
            order=lambda job: dualpipe(job.p, job.m),
            copies=2,
            pairs=True,
        ),
        Schedule(
            name="dualpipe-v",
            title="DualPipeV: DualPipe folded into a V, one copy of the weights",
            source="DeepSeek-AI 2025, github.com/deepseek-ai/DualPipe",
            order=lambda job: dualpipe_v(job.p, job.m),
            virtual=(2,),
            pairs=True,
        ),
        Schedule(
            name="zb-auto",
            title="automatic zero-bubble: an order found for the times and memory at hand",
            source="Qi et al. 2023, arXiv:2401.10241, section 4",
            order=lambda job: zb_auto(job.p, job.m, times=job.timed, cap=job.cap),
        ),
    )
}
