// SPDX-License-Identifier: Apache-2.0
// The supervisor over processes that are played and a clock that the test moves.

import t from "tap";
import type { ProcessSpec } from "../../src/manager/up/supervisor.js";
import { Supervisor } from "../../src/manager/up/supervisor.js";
import type { Child, ChildEvents, Processes } from "../../src/platform/processes.js";
import { QuietLog } from "../platform/fixture.js";
import { HandClock, settled } from "../platform/handclock.js";

interface Played {
  args: readonly string[];
  events: ChildEvents;
  signals: string[];
}

/** Children that do nothing but what the test says. */
class PlayedProcesses implements Processes {
  readonly children: Played[] = [];
  /** The next starts fail with these words. */
  readonly failures: string[] = [];
  /** Children end when they are asked to. */
  obedient = true;

  spawn(args: readonly string[], events: ChildEvents): Promise<Child> {
    const failure = this.failures.shift();
    if (failure) return Promise.reject(new Error(failure));
    const played: Played = { args, events, signals: [] };
    this.children.push(played);
    const kill = (signal: "SIGTERM" | "SIGKILL") => {
      played.signals.push(signal);
      const ends = signal === "SIGKILL" || this.obedient;
      if (ends) setImmediate(() => events.onExit({ code: null, signal }));
    };
    return Promise.resolve({ pid: 1000 + this.children.length, kill });
  }

  get last(): Played {
    return this.children[this.children.length - 1]!;
  }
}

function rig() {
  const clock = new HandClock();
  const processes = new PlayedProcesses();
  const supervisor = new Supervisor(processes, clock, new QuietLog());
  const pass = async (ms: number) => {
    clock.pass(ms);
    await settled();
  };
  return { clock, processes, supervisor, pass };
}

function spec(id: string, change: Partial<ProcessSpec> = {}): ProcessSpec {
  return { role: id, id, address: "a", args: [id], stopMs: 5000, onDeath: null, ...change };
}

async function add(parts: ReturnType<typeof rig>, one: ProcessSpec): Promise<void> {
  const adding = parts.supervisor.add(one, 60_000);
  await settled();
  parts.processes.last.events.onReady();
  await adding;
}

const killed = { code: null, signal: "SIGKILL" };

t.test("what dies is started again, ever later, until it is steady", async (t) => {
  const parts = rig();
  const { processes, supervisor, pass } = parts;
  const deaths: number[] = [];
  await add(
    parts,
    spec("one", { onDeath: async () => void deaths.push(processes.children.length) }),
  );
  t.match(supervisor.status(), [{ id: "one", pid: 1001, state: "running", restarts: 0 }]);
  let children = 1;
  for (const ms of [100, 200, 400, 800, 1600, 3200, 5000, 5000]) {
    processes.last.events.onExit(killed);
    t.match(supervisor.status(), [{ state: "waiting", pid: 0, lastExit: "killed by SIGKILL" }]);
    await pass(ms - 20);
    t.equal(processes.children.length, children, `not before ${ms} ms`);
    await pass(30);
    t.equal(processes.children.length, ++children, "but then");
    t.equal(supervisor.status()[0]?.state, "starting");
    processes.last.events.onReady();
  }
  t.same(deaths, [1, 2, 3, 4, 5, 6, 7, 8], "told of each death, before the restart (P-C3)");
  t.equal(supervisor.status()[0]?.restarts, 8);
  await pass(31_000);
  processes.last.events.onExit({ code: 1, signal: null });
  t.match(supervisor.status(), [{ lastExit: "exit 1" }]);
  await pass(110);
  t.equal(processes.children.length, children + 1, "one that was steady comes back at once");
});

t.test("a start that fails is told, and is not kept", async (t) => {
  const { processes, supervisor, pass } = rig();
  const refused = supervisor.add(spec("one"), 60_000);
  await settled();
  processes.last.events.onFailure("the port is in use");
  processes.last.events.onExit({ code: 2, signal: null });
  await t.rejects(refused, { code: "OVS_UNAVAILABLE", message: "one: the port is in use" });
  t.same(supervisor.status(), []);
  processes.failures.push("no memory");
  await t.rejects(supervisor.add(spec("two"), 60_000), /no memory/);
  const slow = supervisor.add(spec("three"), 1000);
  slow.catch(() => undefined);
  await pass(1010);
  await t.rejects(slow, { code: "OVS_TIMEOUT", message: /three was not ready in 1 s/ });
  t.same(processes.last.signals, ["SIGTERM"], "it does not stay behind");
  t.same(supervisor.status(), []);
  const { length } = processes.children;
  await pass(60_000);
  t.equal(processes.children.length, length);
});

t.test("one that the cluster can live without is kept and tried again", async (t) => {
  const { processes, supervisor, pass } = rig();
  const keeping = supervisor.keep(spec("asd"), 60_000);
  await settled();
  processes.last.events.onFailure("the disk is gone");
  processes.last.events.onExit({ code: 1, signal: null });
  t.equal(await keeping, false);
  t.match(supervisor.status(), [{ state: "waiting", lastExit: "the disk is gone" }]);
  supervisor.amend(spec("asd", { args: ["asd", "--other"] }));
  processes.failures.push("no memory", "no memory");
  await pass(110);
  t.match(supervisor.status(), [{ state: "waiting", restarts: 2 }], "a failing start counts too");
  await pass(210);
  await pass(410);
  t.same(processes.last.args, ["asd", "--other"], "with what was changed meanwhile");
  processes.last.events.onReady();
  t.equal(supervisor.status()[0]?.state, "running");
});

t.test("all stop in reverse order of their roles, by force when they do not", async (t) => {
  const parts = rig();
  const { processes, supervisor, pass } = parts;
  for (const id of ["registry", "asd-0", "asd-1", "router"]) {
    await add(parts, spec(id, { role: id.replace(/-\d/, "") }));
  }
  processes.children[3]!.events.onExit(killed);
  t.equal(supervisor.status()[3]?.state, "waiting");
  processes.obedient = false;
  const stopping = supervisor.stop();
  await settled();
  const signals = () => processes.children.map((child) => child.signals.join());
  t.same(signals(), ["", "SIGTERM", "SIGTERM", ""], "one that waits for its restart needs nothing");
  await pass(5010);
  t.same(signals(), ["SIGTERM", "SIGTERM,SIGKILL", "SIGTERM,SIGKILL", ""]);
  processes.children[0]!.events.onExit({ code: 0, signal: null });
  await stopping;
  const { length } = processes.children;
  await pass(60_000);
  t.equal(processes.children.length, length, "nothing comes back");
  t.same([...new Set(supervisor.status().map((one) => one.state))], ["stopped"]);
});
