"""Prediction before allocation: what a method will take and cost on a base model that exists only as shapes."""

from workbench.plan.planner import plan_method
from workbench.plan.probe import machine
from workbench.plan.values import Entry, Machine, Plan, Workload

__all__ = ["Entry", "Machine", "Plan", "Workload", "machine", "plan_method"]
