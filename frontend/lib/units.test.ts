import { describe, expect, it } from "vitest";

import {
  type Money,
  affordable,
  changeBasisPoints,
  decimalsOf,
  format,
  money,
  notional,
  price,
  quantity,
  readPrice,
  readQuantity,
  readings,
  roundDown,
  share,
  short,
  show,
  showAll,
  showPercent,
} from "./units";

describe("amounts", () => {
  it("reads what the API says exactly, beyond what a float holds", () => {
    expect(money("90071992.54740993")).toBe(9007199254740993n);
    expect(price("0.00000001")).toBe(1n);
    expect(quantity("1.00000000")).toBe(100_000_000n);
  });

  it.each(["", ".", "1e5", "-1", "+1", "0x10", "1.2.3", "NaN", "1.000000001", "１"])("refuses %j", (text) => {
    expect(() => price(text)).toThrow(RangeError);
    expect(readPrice(text)).toBeNull();
  });

  it("reads what people type", () => {
    expect(readPrice(" 1 250,5 ")).toBe(125_050_000_000n);
    expect(readPrice(".5")).toBe(50_000_000n);
    expect(readPrice("7.")).toBe(700_000_000n);
    expect(readPrice("1.50000000000")).toBe(150_000_000n);
  });

  it.each([
    ["1,000", ["1000", "1.000"]],
    [" 120,000", ["120000", "120.000"]],
    ["1 ,250", ["1250", "1.250"]],
  ])("does not guess what %j is", (text, both) => {
    expect(readings(text)).toEqual(both);
    expect(readQuantity(text)).toBeNull();
  });

  it.each([
    ["64,250.10", "64250.1"],
    ["64.250,10", "64250.1"],
    ["1,000,000", "1000000"],
    ["1.000.000", "1000000"],
    ["0,125", "0.125"],
    ["12,5", "12.5"],
    ["1,2345", "1.2345"],
    ["1.000", "1"],
    ["1234,567", "1234.567"],
    ["1,000.", "1000"],
    [",5", "0.5"],
  ])("reads %j in the only way there is", (text, meant) => {
    expect(readings(text)).toBeNull();
    expect(readPrice(text)).toBe(price(meant));
  });

  it.each(["1,00,000", "1,0000.5", "1,000,00", "12,345,6", "1.00,5", "1,,5", "0,125,000"])(
    "reads nothing in %j",
    (text) => {
      expect(readPrice(text)).toBeNull();
    },
  );

  it("formats with a fixed number of decimals", () => {
    expect(format(price("64250.1"), 2)).toBe("64250.10");
    expect(show(price("1234567.891"), 2)).toBe("1,234,567.89");
    expect(show(price("999"), 0)).toBe("999");
    expect(["10", "0", "0.00125", "1234.12345678", "0.1"].map((text) => showAll(money(text)))).toEqual([
      "10.00",
      "0.00",
      "0.00125",
      "1,234.12345678",
      "0.10",
    ]);
    expect(show(-price("0.001") as Money, 2)).toBe("0.00");
    expect(show(-price("1234.5") as Money, 1)).toBe("-1,234.5");
  });

  it("multiplies and divides without losing anything", () => {
    expect(notional(price("0.00000003"), quantity("0.5"))).toBe(1n);
    expect(notional(price("64250.13"), quantity("0.12345"))).toBe(money("7931.6785485"));
    expect(affordable(money("100"), price("3"), quantity("0.001"))).toBe(quantity("33.333"));
    expect(affordable(money("100"), price("0"), quantity("0.001"))).toBe(0n);
    expect(roundDown(price("1.239"), price("0.01"))).toBe(price("1.23"));
  });

  it("knows a step's decimals", () => {
    expect(
      [price("0.01"), price("1"), price("10"), price("0.00000001"), price("0.5")].map(decimalsOf),
    ).toEqual([2, 0, 0, 8, 1]);
  });

  it("shortens, compares and shares", () => {
    expect([money("999"), money("1500"), money("2345678"), money("7000000000")].map(short)).toEqual([
      "999.00",
      "1.50K",
      "2.34M",
      "7.00B",
    ]);
    expect(changeBasisPoints(price("100"), price("101.255"))).toBe(126);
    expect(changeBasisPoints(price("100"), price("98.745"))).toBe(-126);
    expect(changeBasisPoints(price("0"), price("5"))).toBe(0);
    expect([126, -5, 0].map(showPercent)).toEqual(["+1.26%", "-0.05%", "0.00%"]);
    expect(share(quantity("1"), quantity("4"))).toBe(0.25);
    expect(share(quantity("1"), quantity("0"))).toBe(0);
  });
});
