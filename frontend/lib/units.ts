/**
 * Amounts as whole numbers: every price, quantity and amount of money is a bigint of 1e-8 units, exactly as the exchange counts.
 *
 * The three are nominal types, so that none is taken for another. Decimal strings exist at the edges only; a float is made for
 * the chart's pixels and nowhere else.
 */

declare const kind: unique symbol;
type Nominal<Name extends string> = bigint & { readonly [kind]: Name };

/** Quote units for one whole base. */
export type Price = Nominal<"price">;
/** Of the base asset. */
export type Quantity = Nominal<"quantity">;
/** Of any asset: balances, totals. */
export type Money = Nominal<"money">;
export type Amount = Price | Quantity | Money;

export const DECIMALS = 8;
const UNIT = 10n ** BigInt(DECIMALS);
const DECIMAL = /^(\d{1,20})(?:\.(\d{1,20}))?$/;

/** Return the units of a plain decimal ("0.015"); null when it is none, or finer than the units are. */
function units(text: string): bigint | null {
  const match = DECIMAL.exec(text);
  if (match === null) return null;
  const fraction = (match[2] ?? "").replace(/0+$/, "");
  if (fraction.length > DECIMALS) return null;
  return BigInt(match[1] ?? "0") * UNIT + BigInt(fraction.padEnd(DECIMALS, "0"));
}

function exact(text: string): bigint {
  const value = units(text);
  if (value === null) throw new RangeError(`not an amount: ${text}`);
  return value;
}

/**
 * Read what a person typed; null when it is no amount, or can be read as two (`readings`). Spaces are left out. "64,250.10" and
 * "64.250,10" are read as they are meant, "0,5" and "12,5" as decimals, "1,000,000" as a million.
 */
export const readPrice = (text: string): Price | null => typed(text) as Price | null;
export const readQuantity = (text: string): Quantity | null => typed(text) as Quantity | null;

const typed = (text: string): bigint | null => (readings(text) === null ? units(tidy(text)) : null);

/** Return both readings, as plain decimals, of what can be read in two ways: "1,000" is a thousand, or one. Null: of anything else. */
export function readings(text: string): readonly [string, string] | null {
  const match = /^([1-9]\d{0,2}),(\d{3})$/.exec(spaceless(text));
  return match === null ? null : [`${match[1]}${match[2]}`, `${match[1]}.${match[2]}`];
}

const GROUPED = /^[1-9]\d{0,2}(,\d{3})+(\.\d*)?$/;
const GROUPED_BY_POINTS = /^[1-9]\d{0,2}(\.\d{3})+,\d*$/;
const MILLIONS_BY_POINTS = /^[1-9]\d{0,2}(\.\d{3}){2,}$/;

const spaceless = (text: string): string => text.trim().replace(/[\s_]/g, "");

function tidy(text: string): string {
  let plain = spaceless(text);
  if (GROUPED.test(plain)) plain = plain.replaceAll(",", "");
  else if (GROUPED_BY_POINTS.test(plain) || MILLIONS_BY_POINTS.test(plain))
    plain = plain.replaceAll(".", "").replace(",", ".");
  else plain = plain.replace(",", ".");
  return plain.startsWith(".") ? `0${plain}` : plain.replace(/\.$/, "");
}

/** Read what the API says. Throws RangeError on anything but a decimal. */
export const price = (text: string): Price => exact(text) as Price;
export const quantity = (text: string): Quantity => exact(text) as Quantity;
export const money = (text: string): Money => exact(text) as Money;

export const ZERO_PRICE = 0n as Price;
export const ZERO_QUANTITY = 0n as Quantity;
export const ZERO_MONEY = 0n as Money;

/** Return price × quantity, rounded down as the exchange does. */
export function notional(at: Price, of: Quantity): Money {
  return ((at * of) / UNIT) as Money;
}

/** Return what one whole base costs when `of` cost `total`, rounded down; nothing costs nothing. */
export function per(total: Money, of: Quantity): Price {
  return (of === 0n ? 0n : (total * UNIT) / of) as Price;
}

/** Return how much of the base `funds` buy at a price, rounded down to whole lots. */
export function affordable(funds: Money, at: Price, lot: Quantity): Quantity {
  return at === 0n ? ZERO_QUANTITY : roundDown(((funds * UNIT) / at) as Quantity, lot);
}

/** Return the largest multiple of `step` that is not above `value`. */
export function roundDown<T extends Amount>(value: T, step: T): T {
  return (step === 0n ? value : value - (value % step)) as T;
}

/** Return how many decimals a step has: 2 for 0.01. */
export function decimalsOf(step: Amount): number {
  let decimals = DECIMALS;
  let rest: bigint = step;
  while (decimals > 0 && rest % 10n === 0n) {
    rest /= 10n;
    decimals -= 1;
  }
  return decimals;
}

/** Return the plain decimal: "64250.10". What is finer than `decimals` is cut off. */
export function format(value: Amount, decimals: number): string {
  const { sign, whole, fraction } = parts(value, decimals);
  return fraction ? `${sign}${whole}.${fraction}` : `${sign}${whole}`;
}

/** Return the decimal for people: "64,250.10". */
export function show(value: Amount, decimals: number): string {
  const { sign, whole, fraction } = parts(value, decimals);
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return fraction ? `${sign}${grouped}.${fraction}` : `${sign}${grouped}`;
}

function parts(value: bigint, decimals: number): { sign: string; whole: string; fraction: string } {
  const magnitude = value < 0n ? -value : value;
  const shown = magnitude / 10n ** BigInt(DECIMALS - decimals);
  const digits = shown.toString().padStart(decimals + 1, "0");
  const cut = digits.length - decimals;
  return {
    sign: value < 0n && shown > 0n ? "-" : "",
    whole: digits.slice(0, cut),
    fraction: digits.slice(cut),
  };
}

/** Return the decimal for people with all that there is, and two decimals at least: "10.00", "0.00125". */
export function showAll(value: Amount): string {
  return show(value, DECIMALS).replace(/0{1,6}$/, "");
}

/** Return a large amount in short: "1.25M". */
export function short(value: Amount): string {
  const scales: [bigint, string][] = [
    [1_000_000_000n, "B"],
    [1_000_000n, "M"],
    [1_000n, "K"],
  ];
  for (const [scale, letter] of scales) {
    if (value >= scale * UNIT) return `${show((value / scale) as Money, 2)}${letter}`;
  }
  return show(value, 2);
}

/** Return the change from `from` to `to` in hundredths of a percent, rounded half away from zero; 0 from nothing. */
export function changeBasisPoints(from: Price, to: Price): number {
  if (from === 0n) return 0;
  const difference = to - from;
  const magnitude = difference < 0n ? -difference : difference;
  const rounded = Number((magnitude * 20_000n + from) / (2n * from));
  return difference < 0n ? -rounded : rounded;
}

/** Return "+1.25%". */
export function showPercent(basisPoints: number): string {
  const magnitude = Math.abs(basisPoints);
  const sign = basisPoints > 0 ? "+" : basisPoints < 0 ? "-" : "";
  return `${sign}${Math.trunc(magnitude / 100)}.${String(magnitude % 100).padStart(2, "0")}%`;
}

/** Return part / whole between 0 and 1, for the width of a bar. */
export function share(part: Amount, whole: Amount): number {
  return whole === 0n ? 0 : Number((part * 10_000n) / whole) / 10_000;
}

/** Return the float nearest to an amount: for the chart's pixels, never for money. */
export function pixels(value: Amount): number {
  return Number(value) / Number(UNIT);
}
