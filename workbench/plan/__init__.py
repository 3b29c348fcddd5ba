"""Prediction before allocation: what a method will take and cost on a base model that exists only as shapes."""

from workbench.plan.calibration import ENOUGH, Factor, Past, learn
from workbench.plan.planner import count_method, plan_method
from workbench.plan.probe import machine
from workbench.plan.values import FORMULA, Entry, Machine, Plan, Room, Workload

__all__ = [
    "ENOUGH", "FORMULA", "Entry", "Factor", "Machine", "Past", "Plan", "Room", "Workload", "count_method", "learn", "machine",
    "plan_method",
]  # fmt: skip
