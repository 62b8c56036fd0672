"""One run as a trajectory in ATIF, the Agent Trajectory Interchange Format of Harbor (version 1.8).

The format is that of `harbor.models.trajectories` in harbor 0.26.0; the tests hold every
trajectory against that model. Each API message of the agent is one step with its tool calls, and
their results are the step's observation; prompts, and what the CLI itself says to the model, are
steps too. A sub-agent is a trajectory of its own inside the one whose tool call started it.
"""

from collections import defaultdict
from collections.abc import Iterable
from operator import itemgetter

from agentsweep.agents.claude_code.records import Message, SubAgent, ToolCall, as_text
from agentsweep.exports.atif_parts import (
    EMPTY_STEP,
    Json,
    agent_step,
    final_metrics_of,
    is_answer,
    known,
    result_of,
    text_of,
    tool_call,
    user_step,
)
from agentsweep.extraction.linked_run import TOKENS, Run
from agentsweep.extraction.run_row import run_row
from agentsweep.vocabulary import ModelMode

VERSION = "ATIF-v1.8"

# Columns of `runs` (docs/data_dictionary.md) that travel in `extra`, so that a run that was killed
# or starved shows as one.
_RUN_COLUMNS = """run_id dataset task instance_id agent replicate spec_sha256 attempt_id outcome
    outcome_detail exit_code terminal_reason oom_kill_count tool_oom_count tool_oom_count_max
    agent_oom_victim container_oom_victim mem_limit_bytes mem_effective_bytes swap_limit_bytes
    cpu_limit cpu_effective cpu_mode pids_limit mem_peak_bytes mem_peak_source cpu_usage_usec
    cpu_throttled_usec wall_s agent_s patch_status patch_sha256 image_digest model_mode
    runner_sha256 trace_status damage"""
_RUN_TOKENS = (*TOKENS, "output_tokens_final")

Chain = str | None  # a sub-agent's id; None is the main conversation


def trajectory(run: Run) -> Json:
    """The run as one JSON-able ATIF object; `run` was read with the contents of its messages.

    A conversation without any message has one step that says so, as the format asks for one.
    """
    return _Maker(run).root()


class _Maker:
    def __init__(self, run: Run):
        self._run, self._trace = run, run.trace
        self._row = run_row(run, 0)
        self._made: set[str] = set()
        self._messages: dict[Chain, list[Message]] = defaultdict(list)
        for message in run.trace.messages:
            self._messages[message.agent_id].append(message)
        self._calls: dict[tuple[str, Chain], list[tuple[ToolCall, Json]]] = defaultdict(list)
        for call, row in zip(run.trace.tool_calls, run.tool_rows, strict=True):
            self._calls[call.message_id, call.agent_id].append((call, row))
        self._started: dict[int, list[SubAgent]] = defaultdict(list)
        for agent in run.trace.agents:
            if agent.parent is not None:
                self._started[id(agent.parent)].append(agent)

    def root(self) -> Json:
        row = self._row
        made = self._trajectory(None, row["run_id"], row["model"] or row["model_requested"])
        # Warm-ups, and those whose call is lost: no step refers to them.
        lost = [agent for agent in self._trace.agents if agent.agent_id not in self._made]
        embedded = made.pop("subagent_trajectories", [])
        embedded += [self._subagent(a) for a in lost if a.agent_id not in self._made]
        made["final_metrics"] |= self._cost()
        made["final_metrics"]["extra"] |= {"run": known(row, _RUN_TOKENS), **self._cost_said()}
        made["extra"] = known(row, _RUN_COLUMNS.split())
        return made | ({"subagent_trajectories": embedded} if embedded else {})

    def _cost(self) -> Json:
        """ATIF asks for real money: a scripted or a replayed run cost none."""
        mode, said = self._row["model_mode"], self._row["cost_usd"]
        if mode in (ModelMode.SCRIPTED, ModelMode.REPLAY):
            return {"total_cost_usd": 0.0}
        return {"total_cost_usd": said} if mode == ModelMode.LIVE and said is not None else {}

    def _cost_said(self) -> Json:
        cost = self._row["cost_usd"]
        return {"cost_usd_said_by_agent": cost} if cost is not None else {}

    def _subagent(self, agent: SubAgent) -> Json:
        self._made.add(agent.agent_id)
        model = next(iter(agent.models), None)
        made = self._trajectory(agent.agent_id, agent.agent_id, model)
        said = {"agent_type": agent.agent_type, "parent_id": agent.parent_id}
        made["extra"] = known(said, said) | {"warmup": agent.warmup}
        return made

    def _trajectory(self, chain: Chain, identity: str, model: str | None) -> Json:
        embedded: list[Json] = []
        steps = [step for _, step in sorted(self._steps(chain, embedded), key=itemgetter(0))]
        steps = steps or [EMPTY_STEP]
        answers = [message for message in self._messages[chain] if is_answer(message)]
        row = self._row
        return {
            "schema_version": VERSION,
            "trajectory_id": identity,
            **({"session_id": row["session_id"]} if row["session_id"] else {}),
            "agent": {
                "name": as_text(self._run.result("spec", "agent", "name")) or "claude-code",
                "version": row["agent_version"] or "unknown",
                **({"model_name": model} if model else {}),
            },
            "steps": [{"step_id": i, **step} for i, step in enumerate(steps, 1)],
            "final_metrics": final_metrics_of([m.whole_usage for m in answers], len(steps)),
            **({"subagent_trajectories": embedded} if embedded else {}),
        }

    def _steps(self, chain: Chain, embedded: list[Json]) -> Iterable[tuple[int, Json]]:
        """The steps of a conversation, each with its time in ns; sub-agents go to `embedded`."""
        used, time_ns = set(), 0
        for message in self._messages[chain]:
            # One without a time keeps its place.
            time_ns = max(time_ns, message.first_utc_ns or 0)
            if message.role == "assistant":
                used.add(message.key)
                yield time_ns, agent_step(message) | self._tools(message.key, chain, embedded)
            elif (text := text_of(message)) or message.kind != "tool_result":
                yield time_ns, user_step(message, text)
        for message_id, owner in self._calls:
            if owner == chain and message_id not in used:
                # The message is another conversation's, which this one began as a copy of.
                first = self._calls[message_id, owner][0][0].requested_utc_ns
                step = {"source": "agent", "message": "", "is_copied_context": True}
                said = {"extra": {"message_id": message_id}}
                yield (
                    time_ns if first is None else first,
                    step | said | self._tools(message_id, chain, embedded),
                )

    def _tools(self, message_id: str, chain: Chain, embedded: list[Json]) -> Json:
        """A step's tool calls and what is known of their results."""
        calls, results = [], []
        for call, row in self._calls.get((message_id, chain), ()):
            calls.append(tool_call(call, row))
            agents = [a for a in self._started[id(call)] if a.agent_id not in self._made]
            # All at once: a damaged session may let one of them start another one of them.
            self._made |= {agent.agent_id for agent in agents}
            if call.finished or agents:
                results.append(result_of(call, row, [self._reference(a) for a in agents]))
            embedded += [self._subagent(agent) for agent in agents]
        made: Json = {"tool_calls": calls} if calls else {}
        return made | ({"observation": {"results": results}} if results else {})

    def _reference(self, agent: SubAgent) -> Json:
        session = self._row["session_id"]
        return {"trajectory_id": agent.agent_id} | ({"session_id": session} if session else {})
