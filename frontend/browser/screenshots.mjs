/** Take the pictures of the README from a running exchange. Usage: scripts/frontend run browser/screenshots.mjs URL FOLDER */
import { join } from "node:path";

import { DESKTOP, PHONE, fund, order, signUp, withBrowser } from "./browser.mjs";

const [url, folder] = process.argv.slice(2);
const SCALE = 2;
const SETTLE_MS = 2_500;

async function bestBid(page) {
  const text = await page.getByTestId("bids").locator("button").first().getAttribute("data-price");
  return Number(text.replaceAll(",", ""));
}

await withBrowser(async (newPage) => {
  for (const [name, viewport] of [
    ["desktop", DESKTOP],
    ["phone", PHONE],
  ]) {
    const page = await newPage(viewport, SCALE);
    const shoot = async (what) => {
      await page.waitForTimeout(SETTLE_MS);
      await page.screenshot({ path: join(folder, `${what}-${name}.png`) });
    };
    await page.goto(url);
    await page.getByTestId("market-BTCUSDT").getByText("%").waitFor();
    await shoot("markets");

    await page.goto(`${url}/trade/BTCUSDT`);
    await page.locator("[data-candles]:not([data-candles='0'])").waitFor({ state: "attached" });
    await signUp(page);
    await fund(page);
    if (name === "phone") await page.getByRole("tab", { name: "Book" }).click();
    await page.getByTestId("bids").locator("button").nth(3).waitFor();
    const bid = await bestBid(page);
    for (const [index, quantity] of ["0.05", "0.12", "0.2"].entries()) {
      await order(page, { side: "Buy", price: (bid * (1 - 0.002 * (index + 1))).toFixed(2), quantity });
      await page.getByText("Order placed.").waitFor();
    }
    await page.getByRole("tab", { name: "Open orders" }).click();
    await page.getByLabel("Quantity").fill("0.25");
    if (name === "phone") {
      await page.evaluate(() => window.scrollTo(0, 0));
      await shoot("book");
      await page.getByRole("tab", { name: "Chart" }).click();
    }
    await shoot("trade");
    if (name === "phone") {
      await page.getByRole("region", { name: "Order form" }).scrollIntoViewIfNeeded();
      await page.evaluate(() => window.scrollTo(0, document.body.scrollHeight));
      await shoot("order");
    }
  }
});
