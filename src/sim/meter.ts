// SPDX-License-Identifier: Apache-2.0
// What a client got in each simulated second: how many answers, and how long they took. For
// pictures; nothing in a simulation depends on it.

export interface ClientSecond {
  answers: number;
  sumMs: number;
  mostMs: number;
}

export class Meter {
  readonly name: string;
  /** By second; of one without answers there may be a hole. */
  readonly seconds: ClientSecond[] = [];

  constructor(name: string) {
    this.name = name;
  }

  /** A request was answered at `nowMs`, after `tookMs`. */
  answered(nowMs: number, tookMs: number): void {
    const at = Math.floor(nowMs / 1000);
    this.seconds[at] ??= { answers: 0, sumMs: 0, mostMs: 0 };
    const second = this.seconds[at];
    second.answers++;
    second.sumMs += tookMs;
    second.mostMs = Math.max(second.mostMs, tookMs);
  }
}
