"""The smallest run that has everything a run has."""

from trainer.train.config import Config, DataConfig, LossConfig, NetworkConfig, OptimiserConfig, RunConfig

TINY = Config(
    network=NetworkConfig(size="tiny"),
    data=DataConfig(looks=1, supersampling=1, validation=2),
    losses=LossConfig(side=32),
    optimiser=OptimiserConfig(rate=1e-3, warmup=2, batch=2, average=0.9),
    run=RunConfig(steps=8, checkpoint_every=4, validate_every=8, keep=9),
)
