// How many requests a key may make, counted in this process (GCRA: the burst is a minute's worth and refills evenly).

const MINUTE = 60_000;

/** What a request is told. Times are in seconds. */
export interface Verdict {
  allowed: boolean;
  remaining: number;
  /** Until all of it is there again. */
  reset: number;
  /** Until one is there. */
  retryAfter: number;
}

export class Limiter {
  /** When each key's bucket will be full again, in milliseconds. */
  private readonly full = new Map<string, number>();

  take(key: string, perMinute: number, now: number): Verdict {
    const one = MINUTE / perMinute;
    const next = Math.max(this.full.get(key) ?? now, now) + one;
    const over = next - now - MINUTE;
    if (over > 0) return { allowed: false, remaining: 0, reset: seconds(next - one - now), retryAfter: Math.max(1, seconds(over)) };
    this.full.set(key, next);
    return { allowed: true, remaining: Math.floor((now + MINUTE - next) / one), reset: seconds(next - now), retryAfter: 0 };
  }
}

function seconds(millis: number): number {
  return Math.ceil(millis / 1000);
}
