// SPDX-License-Identifier: Apache-2.0
// The simulated network of all hosts. Addresses: `unix:/path` is of one host, `tcp:ip:port` of all.
// What daemons see is the real FramedNetwork over a transport whose sockets are here; time, order,
// loss and the rest of what may happen between two processes come from the seed.
//
// Faults are switched from outside: per direction between two hosts (`link`), per host (freeze,
// powerOff), or for connections that are open (reset, halfOpen, late). Each is told when it has an
// effect, so that a workload can count what it met.

import { StorageError } from "../base/errors.js";
import { KIB } from "../base/units.js";
import type { Codec } from "../platform/codec.js";
import { FramedNetwork } from "../platform/framed.js";
import type { World } from "../platform/world.js";
import type { Dice } from "./dice.js";
import type { Life } from "./life.js";
import { Bodies, Metas, type SimFrame } from "./netframe.js";
import { type Listening, NetHost } from "./nethost.js";
import { type NetFault, NetLink } from "./netlink.js";
import { ECONNREFUSED, type SimSocket, SimSocket as Socket, SocketState } from "./netsocket.js";
import { SimTransport } from "./nettransport.js";
import type { Timeline } from "./timeline.js";

const BACKLOG_MAX = 1024;
const SYN_RESEND_MS = 1000;
const SYN_RESEND_MS_MAX = 32_000;
const NUMERIC = /^(\d{1,3}\.){3}\d{1,3}$/;

export interface SimNetOptions {
  timeline: Timeline;
  dice: Dice;
  /** One way between two hosts: between these, chosen for each pair. */
  latencyMs?: { low: number; high: number };
  /** One way between two processes of a host. */
  localMs?: number;
  /** Bytes that the two kernels of a connection hold. */
  kernelBytes?: number;
  /** About how long a sender tries before it gives a connection up. */
  giveUpMs?: number;
  /** Called each time when a fault has an effect on somebody. */
  onFault?: (kind: NetFault) => void;
}

/** A place where a crash may fall: before or after a frame leaves its host or is delivered. */
export interface FramePoint {
  /** Counts departures and deliveries alike, from 1. */
  number: number;
  step: "depart" | "deliver";
  when: "before" | "after";
  frame: SimFrame;
  from: NetHost;
  to: NetHost;
  /** Name of the life that sends it, or that gets it; "" when it is gone. */
  life: string;
}

export class SimNet {
  readonly timeline: Timeline;
  readonly dice: Dice;
  readonly localMs: number;
  readonly kernelBytes: number;
  readonly giveUpMs: number;
  readonly bodies = new Bodies();
  readonly metas = new Metas();
  readonly hosts: NetHost[] = [];
  /** Called at every point when it is set; it may end lives, freeze and stop hosts. */
  hook: ((point: FramePoint) => void) | null = null;
  readonly #onFault: (kind: NetFault) => void;
  readonly #latencyMs: { low: number; high: number };
  readonly #links = new Map<number, NetLink>();
  #points = 0;

  constructor(options: SimNetOptions) {
    this.timeline = options.timeline;
    this.dice = options.dice;
    this.#latencyMs = options.latencyMs ?? { low: 0.1, high: 0.3 };
    this.localMs = options.localMs ?? 0.02;
    this.kernelBytes = options.kernelBytes ?? 1024 * KIB;
    this.giveUpMs = options.giveUpMs ?? 30_000;
    this.#onFault = options.onFault ?? (() => {});
  }

  /** Departures and deliveries until now. */
  get points(): number {
    return this.#points;
  }

  /** A new host. */
  host(name: string, ip: string): NetHost {
    const host = new NetHost(this, name, ip, this.hosts.length);
    this.hosts.push(host);
    return host;
  }

  /** The way from one host to another. */
  link(from: NetHost, to: NetHost): NetLink {
    const key = from.index * 65_536 + to.index;
    let link = this.#links.get(key);
    if (link === undefined) {
      const { low, high } = this.#latencyMs;
      link = new NetLink(low + (high - low) * this.dice.fork(`${from.ip} ${to.ip}`).share());
      this.#links.set(key, link);
    }
    return link;
  }

  /** The network of one thread of a process on `host`, as its World has it. */
  open(
    host: NetHost,
    life: Life,
    world: Pick<World, "arena" | "clock" | "turn" | "log" | "codec">,
    receivePoolBytes: number,
  ): FramedNetwork {
    const offset = world.arena.region(receivePoolBytes, "the network's receive pool");
    const pool = { offset, bytes: receivePoolBytes };
    return new FramedNetwork({
      clock: world.clock,
      turn: world.turn,
      log: world.log,
      transport: (onEvents) => this.transport(host, life, world, pool, onEvents),
      resolve: (name) => this.resolve(name),
    });
  }

  /** Sockets of one thread, below `open`. `pool`: the arena's part for unexpected payloads. */
  transport(
    host: NetHost,
    life: Life,
    memory: { arena: { bytes: Uint8Array }; codec: Pick<Codec, "crc32c" | "crc32cOf"> },
    pool: { offset: number; bytes: number },
    onEvents: (count: number) => void,
  ): SimTransport {
    return new SimTransport(
      host,
      life,
      { ...pool, arena: memory.arena.bytes },
      memory.codec,
      onEvents,
    );
  }

  /** The address of a host by its name. */
  async resolve(name: string): Promise<string> {
    if (NUMERIC.test(name)) return name;
    if (name === "localhost") return "127.0.0.1";
    const host = this.hosts.find((one) => one.name === name);
    if (host === undefined) throw new StorageError("OVS_UNAVAILABLE", `no address for ${name}`);
    return host.ip;
  }

  // Connecting.

  /** A socket file of the host: connected at once, or -errno (EAGAIN, ENOENT, ECONNREFUSED). */
  connectUnix(host: NetHost, path: string): SimSocket | number {
    const EAGAIN = 11;
    const ENOENT = 2;
    const listening = host.files.get(path);
    if (listening === undefined) return -ENOENT;
    if (listening === null) return -ECONNREFUSED;
    if (listening.queue.length >= BACKLOG_MAX) return -EAGAIN;
    const isUnix = true;
    const near = new Socket(host, host, { isUnix, state: SocketState.Connecting, peerAddress: "" });
    const far = new Socket(host, host, { isUnix, state: SocketState.Queued, peerAddress: "" });
    join(near, far, listening);
    return near;
  }

  /** A connection that is being made; Connecting until `peer` is another. -errno at once. */
  connectTcp(host: NetHost, ip: string, port: number): SimSocket {
    const target = this.#byIp(host, ip);
    const options = {
      isUnix: false,
      state: SocketState.Connecting,
      peerAddress: `tcp:${ip}:${port}`,
    };
    const near = new Socket(host, target ?? host, options);
    if (target !== null) this.#knock(near, target, { ip, port, resendMs: SYN_RESEND_MS });
    return near;
  }

  #byIp(host: NetHost, ip: string): NetHost | null {
    const named = this.hosts.find((one) => one.ip === ip);
    return named ?? (ip.startsWith("127.") ? host : null);
  }

  /** Asks to be let in; asked again while there is no answer. */
  #knock(
    near: SimSocket,
    target: NetHost,
    at: { ip: string; port: number; resendMs: number },
  ): void {
    const { link, host } = near;
    const again = () => {
      const resendMs = Math.min(2 * at.resendMs, SYN_RESEND_MS_MAX);
      const work = () => {
        if (near.state === SocketState.Connecting) this.#knock(near, target, { ...at, resendMs });
      };
      this.timeline.after(at.resendMs, null, () => host.whenRunning(work));
    };
    if (link?.hangs || link?.blocked) {
      this.tell(link.hangs ? "hanging" : near.back!.blocked ? "partition" : "one-way");
      again();
      return;
    }
    const ms = link === null ? this.localMs : link.latencyMs + link.delayMs;
    this.timeline.after(ms, null, () => {
      if (near.state !== SocketState.Connecting) return;
      if (target.off || target.frozen || near.back?.blocked) again();
      else this.#answerKnock(near, target, at, again);
    });
  }

  #answerKnock(
    near: SimSocket,
    target: NetHost,
    at: { ip: string; port: number },
    again: () => void,
  ): void {
    const ms = near.back === null ? this.localMs : near.back.latencyMs + near.back.delayMs;
    const listening = target.ports.get(at.port);
    const isHeard = listening !== undefined && (listening.ip === "" || listening.ip === at.ip);
    if (!isHeard || near.link?.refuses) {
      if (isHeard) this.tell("refused");
      this.timeline.after(ms, null, () => near.host.whenRunning(() => near.fail(ECONNREFUSED)));
      return;
    }
    if (listening.queue.length >= BACKLOG_MAX) {
      again();
      return;
    }
    const { host } = near;
    const peerAddress = `tcp:${near.link === null ? at.ip : host.ip}:${host.nextPort()}`;
    const options = { isUnix: false, state: SocketState.Queued, peerAddress };
    const far = new Socket(target, host, options);
    this.timeline.after(ms, null, () =>
      host.whenRunning(() => {
        join(near, far, listening);
      }),
    );
  }

  // Faults of more than one field.

  /** Nothing passes from any of `some` to any of `others`; nor back, unless `oneWay`. */
  partition(
    some: readonly NetHost[],
    others: readonly NetHost[],
    { oneWay }: { oneWay: boolean },
  ): void {
    for (const a of some) {
      for (const b of others) {
        if (a === b) continue;
        this.link(a, b).blocked = true;
        if (!oneWay) this.link(b, a).blocked = true;
      }
    }
  }

  /** All links are well again. Connections recover when they send again. */
  heal(): void {
    for (const link of this.#links.values()) link.heal();
  }

  /** The open connections between two hosts: the ends at `a`. */
  connections(a: NetHost, b: NetHost): SimSocket[] {
    const isBetween = (one: SimSocket) => one.state === SocketState.Open && one.peer.host === b;
    return [...a.sockets].filter((one) => isBetween(one) && one.peer !== one);
  }

  /** One of the connections between two hosts, or null. */
  someConnection(a: NetHost, b: NetHost): SimSocket | null {
    const list = this.connections(a, b);
    return list.length === 0 ? null : this.dice.pick(list);
  }

  /** A connection is reset; false when there is none. */
  reset(a: NetHost, b: NetHost): boolean {
    const socket = this.someConnection(a, b);
    socket?.reset();
    return socket !== null;
  }

  /** A connection is gone at `a`, and `b` does not know. */
  halfOpen(a: NetHost, b: NetHost): boolean {
    const socket = this.someConnection(a, b);
    if (socket === null) return false;
    this.tell("half-open");
    socket.vanish();
    return true;
  }

  /** A connection is gone at `a`; what it sent to `b` arrives `lateMs` from now. */
  late(a: NetHost, b: NetHost, lateMs: number): boolean {
    const socket = this.someConnection(a, b);
    socket?.sendLate(lateMs);
    return socket !== null;
  }

  // For hosts, sockets and transports.

  /** A fault has had an effect: it is counted. */
  tell(kind: NetFault): void {
    this.#onFault(kind);
  }

  /** A frame passes a point; false when its host or process does not go on from here. */
  pass(
    frame: SimFrame,
    sender: SimSocket,
    step: FramePoint["step"],
    when: FramePoint["when"],
  ): boolean {
    if (when === "before") {
      this.#points++;
      if (step === "deliver") this.timeline.mix(frame.operation * 65_537 + frame.bytes);
    }
    if (this.hook === null) return true;
    const from = sender.host;
    const to = sender.peer.host;
    const life = (step === "depart" ? sender : sender.peer).owner?.lifeName ?? "";
    this.hook({ number: this.#points, step, when, frame, from, to, life });
    const host = step === "depart" ? from : to;
    return !host.off && !host.frozen;
  }
}

function join(near: SimSocket, far: SimSocket, listening: Listening): void {
  if (near.state !== SocketState.Connecting) return;
  near.peer = far;
  far.peer = near;
  const { host } = far;
  const isLive = host.ports.get(listening.port) === listening || listening.port === 0;
  if (host.off || !isLive) {
    near.fail(ECONNREFUSED);
    return;
  }
  far.listening = listening;
  listening.queue.push(far);
  listening.wake();
  near.owner?.ready(near);
}
