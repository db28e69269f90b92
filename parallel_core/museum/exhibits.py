"""draft"""
from parallel_core.museum.exhibit import *
S=()
def E(name, fields, asleep, notices=(), **k):
    return Exhibit(name=name,title=name,wrong="",silent="",shows="",cure="",fields=fields,asleep=asleep,notices=frozenset(notices),sources=S, **k)
EXHIBITS={e.name:e for e in (
 E("context-unsummed",dict(cp=2),dict(dp=2)),
 E("microbatches-undivided",dict(pp=2,microbatches=4),dict(pp=1)),
 E("norms-unsummed",dict(tp=2,sp=True),dict(sp=False)),
 E("experts-times-ep",dict(dp=2,ep=2,experts=4),dict(ep=1)),
 E("router-unsummed",dict(dp=2,ep=2,experts=4),dict(ep=1)),
 E("loss-times-cp",dict(cp=2),dict(cp=1,dp=2)),
 E("tied-too-late",dict(dp=2,pp=2,tied=True,microbatches=2),dict(dp=1)),
 E("bucket-early",dict(dp=2,microbatches=4),dict(microbatches=1)),
 E("positions-contiguous",dict(cp=2),dict(cp=1,dp=2)),
 E("last-microbatch-only",dict(dp=2,microbatches=4),dict(microbatches=1)),
 E("norm-counted-twice",dict(pp=2,tied=True,clip=0.5,microbatches=2),dict(tied=False)),
 E("stages-seeded-alike",dict(pp=2,layers=4,microbatches=2),dict(pp=1)),
)}
