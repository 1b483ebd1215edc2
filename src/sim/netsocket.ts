// SPDX-License-Identifier: Apache-2.0
// One end of a simulated connection, and the stream that leaves from it. Positions count bytes
// since the connection began:
//
//   read ≤ arrived ≤ departed ≤ taken ≤ pushed
//    │        │          │        └ by the sender's kernel      └ by the sending process
//    │        │          └ left the sender's host
//    │        └ in the receiver's kernel
//    └ by the receiving process
//
// As with TCP, what departs arrives in order or not at all: a packet that is lost stalls those
// behind it until it is sent again, after 200 ms, then twice that, and so on; when that lasted too
// long the sender gives up, and its other side may not know. What the kernel has taken is sent on
// when its process is gone.

import { FrameQueue } from "./netframequeue.js";
import type { Listening, NetHost } from "./nethost.js";
import { HEALTHY_BYTES_PER_MS, type NetFault, type NetLink, wireMs } from "./netlink.js";

export const ECONNRESET = 104;
export const ETIMEDOUT = 110;
export const ECONNREFUSED = 111;

const RESEND_MS = 200;
const RESEND_MS_MAX = 20_000;
/** Most times that one packet is lost by chance. */
const LOSSES_MAX = 6;

export const SocketState = { Connecting: 0, Queued: 1, Open: 2, Closed: 3 } as const;
export type SocketState = (typeof SocketState)[keyof typeof SocketState];

export const Ending = { None: 0, Fin: 1, Reset: 2 } as const;
export type Ending = (typeof Ending)[keyof typeof Ending];

/** The process that holds a socket. */
export interface SocketOwner {
  /** Something happened to the socket: it is looked at in the next wake-up. */
  ready(socket: SimSocket): void;
  /** Of the life that has it. */
  readonly lifeName: string;
}

export class SimSocket {
  readonly host: NetHost;
  /** Null on the same host. */
  readonly link: NetLink | null;
  readonly back: NetLink | null;
  /** Of a socket file: the end of one side is seen at once by the other. */
  readonly isUnix: boolean;
  peer: SimSocket;
  /** What the process knows of the other side; "" for unix. */
  readonly peerAddress: string;
  state: SocketState;
  owner: SocketOwner | null = null;
  id = 0;
  /** Who waits to accept it. */
  listening: Listening | null = null;

  // The stream from here.
  readonly frames = new FrameQueue();
  pushed = 0;
  taken = 0;
  departed = 0;
  arrived = 0;
  read = 0;
  /** What is known here of `read`. */
  acknowledged = 0;
  ending: Ending = Ending.None;
  arrivedEnding: Ending = Ending.None;
  /** The process waits until the kernel takes more. */
  waitsForRoom = false;
  inTx = false;
  /** Nothing arrives before this time, though it has left. */
  holdUntilMs = 0;
  #roomUnderWay = false;
  #generation = 0;
  #stalled = false;
  #stallSinceMs = -1;
  #resendMs = RESEND_MS;
  #lastArrivalMs = 0;
  #unheardSinceMs = -1;
  readonly #giveUpMs: number;
  /** Of the host: what it has forgotten is not sent again. */
  readonly #boot: number;

  // What has come, and the process.
  /** The kernel has given the connection up; the process may not know yet. */
  error = 0;
  /** Only this process is told so; the stream goes on to its end. */
  cut = false;
  paused = false;
  starved = false;
  deaf = false;
  staged = false;
  isReady = false;

  constructor(
    host: NetHost,
    other: NetHost,
    options: { isUnix: boolean; state: SocketState; peerAddress: string },
  ) {
    this.host = host;
    this.link = host === other ? null : host.net.link(host, other);
    this.back = host === other ? null : host.net.link(other, host);
    this.isUnix = options.isUnix;
    this.state = options.state;
    this.peerAddress = options.peerAddress;
    this.peer = this;
    this.#boot = host.boots;
    this.#giveUpMs = host.net.giveUpMs * (0.6 + 0.8 * host.net.dice.share());
  }

  /** It takes what comes: nobody has paused it, and it has memory for the payload. */
  get reads(): boolean {
    return this.state === SocketState.Open && !this.paused && !this.starved;
  }

  /** Bytes that came and were not read. */
  get unread(): number {
    return this.peer.arrived - this.peer.read;
  }

  /** Bytes that the kernel may take now. */
  room(): number {
    if (!this.back?.blocked) this.acknowledged = this.read;
    return this.host.net.kernelBytes - (this.taken - this.acknowledged);
  }

  // Leaving the host.

  /** Sends what the kernel has; false when the host stopped in the middle of it. */
  depart(): boolean {
    const { net } = this.host;
    if (this.#stalled || this.error !== 0) return true;
    const to = this.frames.depart(this, net);
    const isDone = to === this.taken;
    const ending = isDone ? this.ending : Ending.None;
    const bytes = to - this.departed;
    this.departed = to;
    if (bytes === 0 && ending === Ending.None) return isDone;
    const why = this.#obstacle();
    if (why !== null) {
      net.tell(why);
      this.#stall();
      return isDone;
    }
    const { link } = this;
    if (link !== null && link.resetRate > 0 && net.dice.chance(link.resetRate)) {
      this.reset();
      return isDone;
    }
    const now = net.timeline.nowMs;
    const begin = Math.max(this.#lastArrivalMs, now + this.#travelMs());
    const at = begin + wireMs(bytes, link === null ? HEALTHY_BYTES_PER_MS : link.bytesPerMs);
    this.#lastArrivalMs = at;
    this.#arriveAfter(at - now, to, ending);
    return isDone;
  }

  /** What keeps packets from arriving, or null. */
  #obstacle(): NetFault | null {
    if (this.link === null) return null;
    if (this.link.blocked) return this.back!.blocked ? "partition" : "one-way";
    return this.peer.host.off ? "power" : null;
  }

  #travelMs(): number {
    const { net } = this.host;
    const { link } = this;
    if (link === null) return net.localMs * (0.5 + net.dice.share());
    let ms = link.latencyMs * (1 + 0.3 * net.dice.share());
    if (link.delayMs > 0 || link.jitterMs > 0) {
      ms += link.delayMs + link.jitterMs * net.dice.share();
      net.tell("delay");
    }
    if (link.bytesPerMs < HEALTHY_BYTES_PER_MS) net.tell("slow");
    let resend = RESEND_MS;
    for (let i = 0; i < LOSSES_MAX && link.lossRate > 0; i++, resend *= 2) {
      if (!net.dice.chance(link.lossRate)) break;
      ms += resend;
      net.tell("loss");
    }
    return ms;
  }

  #arriveAfter(ms: number, to: number, ending: Ending): void {
    const generation = this.#generation;
    const work = () => {
      if (generation === this.#generation) this.#arrive(to, ending);
    };
    this.host.net.timeline.after(ms, null, work);
  }

  // Arriving at the other host.

  #arrive(to: number, ending: Ending): void {
    const { net } = this.host;
    const { peer } = this;
    if (peer.host.off) {
      this.#stall();
      return;
    }
    if (peer.host.frozen) {
      const generation = this.#generation;
      peer.host.whenRunning(() => {
        if (generation === this.#generation) this.#arrive(to, ending);
      });
      return;
    }
    const lateMs = this.holdUntilMs - net.timeline.nowMs;
    if (lateMs > 0) {
      this.#arriveAfter(lateMs, to, ending);
      return;
    }
    const bytes = to - this.arrived;
    this.arrived = to;
    this.#stallSinceMs = -1;
    this.#resendMs = RESEND_MS;
    if (peer.state === SocketState.Closed || peer.error !== 0) {
      this.read = to;
      if (bytes > 0) this.#answerReset();
      return;
    }
    if (ending !== Ending.None) this.arrivedEnding = ending;
    if (ending === Ending.Reset) peer.fail(ECONNRESET);
    if (this.back?.blocked && this.#unheardSinceMs < 0) this.#notHeard(RESEND_MS);
    peer.owner?.ready(peer);
  }

  /** Nobody is there any more: the sender is told, if that gets through. */
  #answerReset(): void {
    const { net } = this.host;
    if (this.back?.blocked) {
      this.#stall();
      return;
    }
    const ms = this.back === null ? net.localMs : this.back.latencyMs;
    net.timeline.after(ms, null, () => this.host.whenRunning(() => this.fail(ECONNRESET)));
  }

  /** Data arrives, but the word of that does not: the sender gives up in the end. */
  #notHeard(waitMs: number): void {
    const { net } = this.host;
    if (this.#unheardSinceMs < 0) this.#unheardSinceMs = net.timeline.nowMs;
    net.timeline.after(waitMs, null, () => {
      if (!this.back?.blocked || this.error !== 0) {
        this.#unheardSinceMs = -1;
        if (this.waitsForRoom) this.owner?.ready(this);
        return;
      }
      net.tell(this.link!.blocked ? "partition" : "one-way");
      const isOver = net.timeline.nowMs - this.#unheardSinceMs > this.#giveUpMs;
      if (isOver) this.host.whenRunning(() => this.fail(ETIMEDOUT));
      else this.#notHeard(this.#longer(waitMs, this.#unheardSinceMs));
    });
  }

  // Sending again.

  #stall(): void {
    if (this.#stalled || this.error !== 0 || this.host.off) return;
    const { net } = this.host;
    this.#stalled = true;
    this.#generation++;
    this.departed = this.arrived;
    if (this.#stallSinceMs < 0) this.#stallSinceMs = net.timeline.nowMs;
    net.timeline.after(this.#resendMs, null, () => this.host.whenRunning(() => this.#resend()));
  }

  #resend(): void {
    const { net } = this.host;
    this.#stalled = false;
    if (this.error !== 0 || this.#boot !== this.host.boots) return;
    this.#resendMs = this.#longer(this.#resendMs, this.#stallSinceMs);
    if (net.timeline.nowMs - this.#stallSinceMs > this.#giveUpMs) this.fail(ETIMEDOUT);
    else this.host.transmit(this);
  }

  /** The next wait: twice the last, but not beyond the time at which it gives up. */
  #longer(waitMs: number, sinceMs: number): number {
    const { dice, timeline } = this.host.net;
    const leftMs = sinceMs + this.#giveUpMs - timeline.nowMs;
    return Math.min(waitMs * (1.8 + 0.4 * dice.share()), RESEND_MS_MAX, Math.max(leftMs, 0) + 1);
  }

  /**
   * Looks every now and then whether the other side is there, as TCP keepalive does; after so long
   * without an answer the connection has failed. Not for socket files.
   */
  keepAlive(everyMs: number, giveUpMs: number): void {
    if (this.link !== null) this.#probe(everyMs, giveUpMs, this.host.net.timeline.nowMs);
  }

  #probe(everyMs: number, giveUpMs: number, heardMs: number): void {
    const { timeline } = this.host.net;
    const work = () => {
      if (this.state === SocketState.Closed || this.error !== 0) return;
      const isCut = this.#obstacle() !== null || this.back!.blocked || this.peer.host.frozen;
      const isGone = this.peer.state === SocketState.Closed || this.peer.error !== 0;
      if (!isCut && isGone && this.peer.arrivedEnding === Ending.None) this.fail(ECONNRESET);
      else if (isCut && timeline.nowMs - heardMs > giveUpMs) this.fail(ETIMEDOUT);
      else this.#probe(everyMs, giveUpMs, isCut ? heardMs : timeline.nowMs);
    };
    timeline.after(everyMs, null, () => this.host.whenRunning(work));
  }

  // Room in the other kernel.

  /** The other process has read: who waits for room hears of it. */
  onRead(): void {
    const { net } = this.host;
    if (!this.waitsForRoom || this.#roomUnderWay || this.error !== 0) return;
    if (this.taken - this.read > net.kernelBytes / 2) return;
    this.#roomUnderWay = true;
    const ms = this.back === null ? net.localMs : this.back.latencyMs;
    net.timeline.after(ms, null, () => {
      this.#roomUnderWay = false;
      if (this.back?.blocked) {
        if (this.#unheardSinceMs < 0) this.#notHeard(RESEND_MS);
      } else if (this.state !== SocketState.Closed) {
        this.owner?.ready(this);
      }
    });
  }

  // Ends.

  /** The kernel gives the connection up: nothing leaves any more, the process is told. */
  fail(errno: number): void {
    if (this.error !== 0) return;
    this.error = errno;
    this.taken = this.departed;
    this.ending = Ending.None;
    this.owner?.ready(this);
  }

  /** Both sides are told, each when it hears of it. */
  reset(): void {
    const { net } = this.host;
    net.tell("reset");
    this.fail(ECONNRESET);
    const ms = this.link === null ? net.localMs : this.link.latencyMs;
    const { peer } = this;
    net.timeline.after(ms, null, () => peer.host.whenRunning(() => peer.fail(ECONNRESET)));
  }

  /**
   * The connection ends for this process only. What it had sent arrives `lateMs` from now, when
   * it may long have another connection to the same process.
   */
  sendLate(lateMs: number): void {
    const { net } = this.host;
    net.tell("late");
    this.holdUntilMs = net.timeline.nowMs + lateMs;
    this.cut = true;
    if (this.ending === Ending.None) this.ending = Ending.Fin;
    this.host.transmit(this);
    this.owner?.ready(this);
  }

  /** This side is gone, and the other is not told. */
  vanish(): void {
    this.fail(ECONNRESET);
  }

  /**
   * The process closes it, or is gone. What the kernel has taken is still sent, but where something
   * came that was not read: then the other side learns that too.
   */
  close(): void {
    if (this.state === SocketState.Closed) return;
    const isAlone = this.peer === this;
    const isRude = this.unread > 0 || this.state !== SocketState.Open;
    this.state = SocketState.Closed;
    this.owner = null;
    this.host.sockets.delete(this);
    if (this.isUnix) this.peer.owner?.ready(this.peer);
    if (this.host.off || this.error !== 0 || this.ending !== Ending.None || isAlone) return;
    if (isRude && !this.isUnix) this.taken = this.departed;
    this.ending = isRude ? Ending.Reset : Ending.Fin;
    this.host.transmit(this);
  }
}
