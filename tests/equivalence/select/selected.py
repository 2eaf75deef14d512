"""Models, steps and a plain sequential trainer for the tests of model selection; importable by worker processes."""

import os
import signal
from pathlib import Path

import torch

from stepwell.select.hopper import visiting_order
from stepwell.select.trainee import Trainee, as_trainee, seed_all
from stepwell.select.usual import usual_step

GRID = {"lr": [0.3, 0.1, 0.03, 0.01], "width": [8, 12], "drop": [0.0, 0.3]}


def data(rows=400):
    """Return a small problem with three classes."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 10, generator=draw)
    return x, (x @ torch.randn(10, 3, generator=draw)).argmax(1)


def with_momentum(params):
    """Build an MLP with SGD and momentum."""
    model = _mlp(params)
    return Trainee(model, torch.optim.SGD(model.parameters(), lr=params["lr"], momentum=0.9, weight_decay=1e-4))


def with_adam(params):
    """Build an MLP with Adam, a schedule and dropout."""
    model = _mlp(params)
    optimizer = torch.optim.Adam(model.parameters(), lr=params["lr"])
    return Trainee(model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40))


def with_everything(params):
    """Build one with batch statistics, AdamW, a schedule that counts milestones, and clipping."""
    model = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2))
    model.append(torch.nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=params["lr"])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    return Trainee(model, optimizer, schedule, "epoch", clip=0.5)


def _mlp(params):
    width = params.get("width", 8)
    parts = [torch.nn.Linear(10, width), torch.nn.ReLU()]
    if params.get("drop"):
        parts.append(torch.nn.Dropout(params["drop"]))
    return torch.nn.Sequential(*parts, torch.nn.Linear(width, 3))


def killing_step(model, batch):
    """Kill this worker at the 25th step of all workers together, once."""
    with Path(os.environ["STEPWELL_TEST_KILL"]).open("ab") as file:
        file.write(b".")
        file.flush()
        if file.tell() == 25:
            os.kill(os.getpid(), signal.SIGKILL)
    return usual_step(model, batch)


def dying_step(model, batch):
    """Kill whoever trains the configuration of width 12 without dropout."""
    if model[0].out_features == 12 and len(model) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return usual_step(model, batch)


def faulty(params):
    """Build models of which some raise, diverge, or ask for more memory than there is."""
    fault = params["fault"]
    if fault == "raises in build":
        raise ValueError("no such architecture")
    if fault == "memory":
        torch.empty(1 << 50)
    model = _mlp(params)
    if fault == "raises in step":
        model[2] = torch.nn.Linear(5, 3)
    return Trainee(model, torch.optim.SGD(model.parameters(), lr=1e30 if fault == "diverges" else 0.1))


def alone(build, params, source, epochs, lane, batch_size, seed=0):
    """Train one configuration by itself, in one go, on the partitions in the order that the study fixes."""
    torch.set_num_threads(1)
    seed_all(seed)
    trainee = as_trainee(build(params), params)
    model, optimizer, schedule = trainee.model, trainee.optimizer, trainee.schedule
    for epoch in range(epochs):
        for partition in visiting_order(seed, epoch, lane, len(source.train_rows)):
            model.train()
            for batch in source.train(partition, epoch, batch_size):
                optimizer.zero_grad()
                usual_step(model, batch).backward()
                if trainee.clip:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), trainee.clip)
                optimizer.step()
                if schedule and trainee.schedule_each == "batch":
                    schedule.step()
        if schedule and trainee.schedule_each == "epoch":
            schedule.step()
    return trainee
