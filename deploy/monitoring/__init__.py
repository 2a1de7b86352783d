"""What watches the exchange: dashboards made as code, alerts, and their tests."""
