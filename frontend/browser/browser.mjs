/** Debian's Chromium with empty profiles, silent towards the network but for the exchange. */
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const PROGRAM =
  process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find((path) => existsSync(path));
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-dev-shm-usage",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
  "--disable-features=Translate,OptimizationHints,MediaRouter",
];

export const DESKTOP = { width: 1440, height: 900 };
export const PHONE = { width: 390, height: 844 };

/** Call `visit` with a function that opens a page with cookies and storage of its own; an error in any page's console fails at the end. */
export async function withBrowser(visit) {
  const mistakes = [];
  const open = [];
  const browser = await chromium.launch({ executablePath: PROGRAM, headless: true, args: FLAGS });
  const newPage = async (viewport, scale = 1, timezoneId = "UTC") => {
    const isPhone = viewport.width < 600;
    const context = await browser.newContext({
      viewport,
      deviceScaleFactor: scale,
      isMobile: isPhone,
      hasTouch: isPhone,
      timezoneId,
    });
    open.push(context);
    context.setDefaultTimeout(20_000);
    const watch = (page) => {
      page.on("pageerror", (error) => mistakes.push(`${error.stack ?? error}`));
      page.on("console", (message) => {
        if (
          message.type() === "error" &&
          !/WebSocket|Failed to load resource|blocked by CORS policy/.test(message.text())
        )
          mistakes.push(message.text());
      });
    };
    context.on("page", watch);
    return context.newPage();
  };
  try {
    await visit(newPage);
  } catch (error) {
    for (const [index, context] of open.entries()) {
      const path = join(tmpdir(), `exchange-browser-failure-${process.pid}-${index}.png`);
      await context.pages()[0]?.screenshot({ path });
      process.stderr.write(`what the page showed: ${path}\n`);
    }
    throw error;
  } finally {
    await browser.close();
  }
  if (mistakes.length > 0) throw new Error(`mistakes in the pages:\n${mistakes.join("\n")}`);
}

let accounts = 0;

/** Sign up somebody new through the page. */
export async function signUp(page) {
  accounts += 1;
  const email = `ada-${Date.now().toString(36)}-${accounts}@example.com`;
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.getByRole("button", { name: "Create an account" }).click();
  await page.getByLabel("Email").fill(email);
  await page.getByLabel("Password").fill("correct horse battery");
  const signedUp = page.getByTestId("email").getByText(email);
  // Passwords are hashed when the machine has nothing else to do: on a busy one a sign-up may be refused.
  const refused = page.getByText("The exchange is not responding.");
  for (let attempt = 0; attempt < 5; attempt += 1) {
    await page.getByRole("button", { name: "Sign up" }).click();
    await signedUp.or(refused).first().waitFor({ timeout: 60_000 });
    if (await signedUp.isVisible()) break;
  }
  await signedUp.waitFor();
  return email;
}

/** Ask the faucet, and wait for the money to show. */
export async function fund(page) {
  await page.getByRole("button", { name: "Get test funds" }).click();
  await page.getByRole("tab", { name: "Balances" }).click();
  await page.locator('[data-asset="USDT"] [data-field="free"]').getByText("100,000.00").waitFor();
}

/** Fill in the form and send it. */
export async function order(page, { side, kind = "Limit", price, quantity }) {
  const form = page.getByRole("region", { name: "Order form" });
  await form.getByRole("button", { name: side, exact: true }).click();
  await form.getByRole("tab", { name: kind }).click();
  if (price !== undefined) await form.getByLabel("Price").fill(price);
  await form.getByLabel("Quantity").fill(quantity);
  await form.getByRole("button", { name: new RegExp(`^${side} [A-Z]+$`) }).click();
}
