/** The pages of a liquid exchange: scripts/frontend run browser/live.mjs URL */
import assert from "node:assert/strict";

import { DESKTOP, PHONE, withBrowser } from "./browser.mjs";

const [url] = process.argv.slice(2);
const INTERVALS = [
  "1s",
  "1m",
  "3m",
  "5m",
  "15m",
  "30m",
  "1h",
  "2h",
  "4h",
  "6h",
  "8h",
  "12h",
  "1d",
  "3d",
  "1w",
  "1M",
];

/** Wait until the text changes by itself. */
async function changes(page, locator) {
  const before = await locator.textContent();
  const handle = await locator.elementHandle();
  await page.waitForFunction(([element, text]) => element.textContent !== text, [handle, before]);
}

await withBrowser(async (newPage) => {
  for (const viewport of [DESKTOP, PHONE]) {
    const page = await newPage(viewport);
    await page.goto(url);
    const row = page.getByTestId("market-BTCUSDT");
    await row.getByText("%").waitFor();
    await page.getByText("Live", { exact: true }).waitFor();
    await changes(page, row);

    // The market is read from the address, by a click or typed in any case.
    await row.click();
    await page.waitForURL("**/trade/BTCUSDT");
    await page.goto(`${url}/trade/btcusdt`);
    await page.getByTestId("last-price").getByText(/\d/).waitFor();
    for (const interval of INTERVALS) {
      await page.getByRole("tab", { name: interval, exact: true }).click();
      await page.locator("[data-testid=chart]:not([data-candles='0'])").waitFor();
    }
    if (viewport === PHONE) await page.getByRole("tab", { name: "Book" }).click();
    await page.getByTestId("asks").locator("button").nth(4).waitFor();
    await changes(page, page.getByTestId("bids"));
    await page.getByTestId("bids").locator("button").nth(2).click();
    assert.match(await page.getByLabel("Price", { exact: true }).inputValue(), /^\d+\.\d\d$/);
    if (viewport === PHONE) await page.getByRole("tab", { name: "Trades" }).click();
    await changes(page, page.getByTestId("trades"));
    const [needed, there] = await page.evaluate(() => [
      document.documentElement.scrollWidth,
      window.innerWidth,
    ]);
    assert.ok(needed <= there, `the page is ${needed} wide on a screen of ${there}`);
    await page.goto(`${url}/trade/NOSUCH`);
    await page.getByText("There is no market NOSUCH.").waitFor();
  }
});
