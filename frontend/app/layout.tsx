import type { Metadata, Viewport } from "next";

import { Shell } from "@/components/shell";

import "./globals.css";

export const metadata: Metadata = { title: "Exchange", description: "Spot markets, live." };
export const viewport: Viewport = { width: "device-width", initialScale: 1, themeColor: "#0b0d12" };

export default function RootLayout({ children }: { children: React.ReactNode }) {
  return (
    <html lang="en">
      <body>
        <Shell>{children}</Shell>
      </body>
    </html>
  );
}
